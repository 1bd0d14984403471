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
} as const;

export type ErrorCode = keyof typeof exitCodeOf;

export function isErrorCode(code: unknown): code is ErrorCode {
  return typeof code === 'string' && Object.hasOwn(exitCodeOf, code);
}

/** A failure told to people in one line (what happened, what to do) and to programs by `code` and `data`. */
export class CkptError extends Error {
  readonly code: ErrorCode;
  readonly data: Readonly<Record<string, unknown>>;

  constructor(code: ErrorCode, message: string, data: Record<string, unknown> = {}, options?: ErrorOptions) {
    super(message, options);
    this.name = 'CkptError';
    this.code = code;
    this.data = data;
  }

  get exitCode(): number {
    return exitCodeOf[this.code];
  }
}
