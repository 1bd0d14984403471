/**
 * The process that serves a mount of a test view: it may not be the one that reads it.
 * Its argument is {@link ServerOptions} as JSON. It sends `mounted`, then one `error` for each line of the
 * log and `counts` when asked; it ends on SIGTERM and when it is asked to unmount.
 */
import { CkptError } from '../src/errors.js';
import { mount } from '../src/fs/mount.js';
import type { TransportName } from '../src/fs/transport.js';
import { makeView } from './fs-view.js';

export interface ServerOptions {
  store: string;
  directory: string;
  transport: TransportName;
  live?: boolean;
  requestLimitMs?: number;
}

export type ServerMessage =
  | { type: 'mounted' }
  | { type: 'refused'; code: string; message: string }
  | { type: 'error'; line: string }
  | { type: 'counts'; opened: number; closed: number };

const options = JSON.parse(process.argv[2] ?? '') as ServerOptions;
const counts = { opened: 0, closed: 0 };
const send = (message: ServerMessage) => process.send?.(message);

try {
  const mounted = await mount(
    makeView(options.store, { live: options.live ?? false, counts }),
    options.directory,
    {
      transport: options.transport,
      ...(options.requestLimitMs === undefined ? {} : { requestLimitMs: options.requestLimitMs }),
      onError: (line) => send({ type: 'error', line }),
    },
  );
  process.on('message', (request) => {
    if (request === 'counts') send({ type: 'counts', ...counts });
    if (request === 'unmount') void mounted.unmount();
    if (request === 'exit') process.exit(0);
  });
  process.once('SIGTERM', () => void mounted.unmount());
  send({ type: 'mounted' });
  await mounted.gone;
} catch (error) {
  if (!(error instanceof CkptError)) throw error;
  send({ type: 'refused', code: error.code, message: error.message });
}
process.disconnect();
