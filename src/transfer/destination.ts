/** Where checkpoints go to, as a person gives it: a directory, or ssh://[user@]host[:port]/path. */
import { resolve } from 'node:path';
import { CkptError } from '../errors.js';

export type Destination =
  | { kind: 'directory'; path: string }
  | { kind: 'ssh'; host: string; user?: string; port?: number; path: string };

const sshPattern = /^ssh:\/\/(?:([^@/:]+)@)?(\[[0-9A-Fa-f:.%]+\]|[^@/:[\]]+)(?::(\d{1,5}))?(\/.*)$/;
const maxPort = 65_535;

/**
 * Reads a DEST. Of ssh:// the path is absolute; /~/ in front of one is the user's home directory there. USAGE for
 * what is neither.
 */
export function parseDestination(text: string): Destination {
  if (!/^[a-z][a-z0-9+.-]*:\/\//.test(text)) {
    if (text !== '') return { kind: 'directory', path: resolve(text) };
    throw usage(text);
  }
  const [, user, host, portText, path] = sshPattern.exec(text) ?? [];
  const port = portText === undefined ? undefined : Number(portText);
  if (host === undefined || path === undefined || path === '/' || (port ?? 1) > maxPort) {
    throw usage(text);
  }
  // Nothing that the ssh client would take for an option of its own.
  if (host.startsWith('-') || user?.startsWith('-') || path.includes('\0')) throw usage(text);
  return {
    kind: 'ssh',
    host: host.replace(/^\[|\]$/g, ''),
    path: path.startsWith('/~/') ? path.slice(3) : path,
    ...(user === undefined ? {} : { user }),
    ...(port === undefined ? {} : { port }),
  };
}

function usage(text: string): CkptError {
  return new CkptError(
    'USAGE',
    `${JSON.stringify(text)} is no destination; give a directory, or ssh://user@host/path`,
    { value: text },
  );
}
