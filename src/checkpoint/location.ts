/** Where the store of a user is. */
import { homedir } from 'node:os';
import { isAbsolute, join, resolve } from 'node:path';

/** The store of a user who names none: $CKPTFS_STORE, else $XDG_DATA_HOME/ckptfs, else ~/.local/share/ckptfs. */
export function defaultStorePath(environment: NodeJS.ProcessEnv = process.env): string {
  if (environment.CKPTFS_STORE) return resolve(environment.CKPTFS_STORE);
  const data = environment.XDG_DATA_HOME;
  // The XDG specification: a relative value is invalid and to be ignored.
  const base = data && isAbsolute(data) ? data : join(homedir(), '.local', 'share');
  return join(base, 'ckptfs');
}
