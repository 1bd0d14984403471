/** The one error type of the TypeScript layer, its codes, and the exit code of each. */

/** Exit codes of every command (see README). */
export const exitCodes = {
  done: 0,
  failed: 1,
  usage: 2,
  partly: 3,
  damaged: 4,
  notFound: 10,
  busy: 11,
  interrupted: 130,
} as const;

/** Stable error codes; the native ones are those of native/base/error.h. */
const exitCodeOf = {
  USAGE: exitCodes.usage,
  NOT_FOUND: exitCodes.notFound,
  EXISTS: exitCodes.failed,
  BUSY: exitCodes.busy,
  IO: exitCodes.failed,
  NO_SPACE: exitCodes.failed,
  DAMAGED: exitCodes.damaged,
  UNSUPPORTED: exitCodes.failed,
  CANCELLED: exitCodes.interrupted,
  /** A defect of ours, never the fault of input. */
  INTERNAL: exitCodes.failed,
} as const;

export type ErrorCode = keyof typeof exitCodeOf;

export function isErrorCode(code: unknown): code is ErrorCode {
  return typeof code === 'string' && Object.hasOwn(exitCodeOf, code);
}

/** A failure told to people in one line (what happened, what to do) and to programs by `code` and `data`. */
export class CkptError extends Error {
  readonly code: ErrorCode;
  readonly data: Readonly<Record<string, unknown>>;

  constructor(
    code: ErrorCode,
    message: string,
    data: Record<string, unknown> = {},
    options?: ErrorOptions,
  ) {
    super(message, options);
    this.name = 'CkptError';
    this.code = code;
    this.data = data;
  }

  get exitCode(): number {
    return exitCodeOf[this.code];
  }
}

/** What a person can do about a failed system call, by errno name. */
const remedyOf: Partial<Record<string, [ErrorCode, string]>> = {
  ENOENT: ['NOT_FOUND', 'it does not exist; check the path'],
  ENOTDIR: ['NOT_FOUND', 'a part of the path is not a directory; check the path'],
  EEXIST: ['EXISTS', 'it exists already; choose another name'],
  ENOTEMPTY: ['EXISTS', 'it exists already; choose another name'],
  ENOSPC: ['NO_SPACE', 'the filesystem is full; free some space and try again'],
  EDQUOT: ['NO_SPACE', 'the disk quota is used up; free some space and try again'],
  EACCES: ['IO', 'permission denied; check the owner and mode'],
  EPERM: ['IO', 'not permitted; check the owner and mode'],
  EROFS: ['IO', 'the filesystem is read-only; choose another place'],
  EISDIR: ['USAGE', 'it is a directory; name a file'],
  EMFILE: ['IO', 'too many open files; raise the limit (ulimit -n)'],
};

/** The errno name of a failed system call, or undefined for any other failure. */
export function errnoOf(error: unknown): string | undefined {
  const code = error instanceof Error && 'code' in error ? error.code : undefined;
  return typeof code === 'string' && /^E[A-Z0-9]+$/.test(code) ? code : undefined;
}

/**
 * The CkptError for a failure of the system while doing `what` ("cannot write FILE"). A CkptError passes
 * through, and so does what is not a failure of a system call: that is a defect and keeps its stack.
 */
export function systemError(error: unknown, what: string): unknown {
  const errno = errnoOf(error);
  if (error instanceof CkptError || errno === undefined) return error;
  const [code, why] = remedyOf[errno] ?? ['IO', `${(error as Error).message}; check the storage`];
  return new CkptError(code, `${what}: ${why}`, { errno }, { cause: error });
}

/**
 * Whether it is that what was written could not be made durable. The system tells of that once, and shows the page cache
 * from then on: another attempt would count upon what is nowhere else.
 */
export function isLostWrite(error: unknown): boolean {
  const failure = error instanceof CkptError ? error.cause : error;
  const syscall = failure instanceof Error && 'syscall' in failure ? failure.syscall : undefined;
  return syscall === 'fsync' || syscall === 'fdatasync';
}

/** Any failure as a CkptError: as it is, of the system (see {@link systemError}), or INTERNAL: a defect. */
export function toCkptError(error: unknown): CkptError {
  const known = systemError(error, 'a system call failed');
  if (known instanceof CkptError) return known;
  const message = error instanceof Error ? error.message : String(error);
  return new CkptError(
    'INTERNAL',
    `${message}; this is a defect in ckptfs, run again with DEBUG=ckptfs:* for details`,
    {},
    { cause: error },
  );
}
