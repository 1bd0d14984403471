/** The target that a person names. */
import { DirectoryTarget } from './directory_target.js';
import { parseDestination } from './destination.js';
import type { SshOptions } from './dial.js';
import { SshTarget } from './ssh_target.js';

export interface OpenOptions extends SshOptions {
  /** A store is made where nothing is. */
  create?: boolean;
  signal?: AbortSignal;
}

/** Opens DEST. A guard: what it returns is to be disposed of. Errors are those of the two kinds. */
export async function openTarget(
  text: string,
  { create = false, signal, ...ssh }: OpenOptions = {},
): Promise<DirectoryTarget | SshTarget> {
  const destination = parseDestination(text);
  return destination.kind === 'directory'
    ? DirectoryTarget.open(destination.path, { create })
    : SshTarget.open(destination, { create, ...ssh }, signal);
}
