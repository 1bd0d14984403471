/**
 * What the kernel is told when a node fails: the one place that maps errors to errno numbers.
 * Stateless.
 */
import { constants } from 'node:os';
import { CkptError, errnoOf, type ErrorCode } from '../errors.js';

/** Those that Node knows, and one that it does not (include/uapi/asm-generic/errno.h). */
const numbers = { ...constants.errno, EHOSTDOWN: 112 };

export type ErrnoName = keyof typeof numbers;

/** A refusal of a node by an errno that no CkptError stands for (ENOTDIR, EISDIR, ...). */
export class FsError extends Error {
  constructor(
    readonly errno: ErrnoName,
    message: string = errno,
  ) {
    super(message);
    this.name = 'FsError';
  }
}

const errnoOfCode: Record<ErrorCode, ErrnoName> = {
  USAGE: 'EINVAL',
  NOT_FOUND: 'ENOENT',
  EXISTS: 'EEXIST',
  BUSY: 'EBUSY',
  IO: 'EIO',
  NO_SPACE: 'ENOSPC',
  DAMAGED: 'EIO',
  UNSUPPORTED: 'EOPNOTSUPP',
  CANCELLED: 'EINTR',
  INTERNAL: 'EIO',
};

/** Errno numbers by code, for whoever fails where this cannot be asked. */
export function errnosByCode(): Record<string, number> {
  return Object.fromEntries(
    Object.entries(errnoOfCode).map(([code, name]) => [code, errnoNumber(name)]),
  );
}

function isErrnoName(name: string | undefined): name is ErrnoName {
  return name !== undefined && Object.hasOwn(numbers, name);
}

/** The errno of any failure; a failure that is none of ours nor of the system's is EIO. */
export function errnoName(error: unknown): ErrnoName {
  if (error instanceof FsError) return error.errno;
  if (error instanceof CkptError) return errnoOfCode[error.code];
  const name = errnoOf(error);
  return isErrnoName(name) ? name : 'EIO';
}

/** The positive errno number. */
export function errnoNumber(name: ErrnoName): number {
  return numbers[name];
}

/** Expected answers need no log line; what a person has to look into does. */
export function isTrouble(name: ErrnoName): boolean {
  return ![
    'ENOENT',
    'ENOTDIR',
    'EISDIR',
    'EEXIST',
    'EINVAL',
    'EHOSTDOWN',
    'EROFS',
    'EPERM',
    'EFBIG',
    'ENODATA',
    'ENAMETOOLONG',
  ].includes(name);
}
