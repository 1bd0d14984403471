/**
 * The process that serves a mount of a test view: it may not be the one that reads it.
 * Its argument is {@link ServerOptions} as JSON. It sends `mounted`, then one `error` for each line of the
 * log and `counts` when asked, and at the end what is `left` of the mount; it ends on SIGTERM and when it is
 * asked to unmount. `add NAME SEED` and `remove NAME` change the checkpoints of the view, `state TEXT` the status.
 */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { setTimeout } from 'node:timers/promises';
import { CkptError } from '../src/errors.js';
import { mount } from '../src/fs/mount.js';
import type { TransportName } from '../src/fs/transport.js';
import { type Counts, makeView, noCounts } from './fs-view.js';

export interface ServerOptions {
  store: string;
  directory: string;
  transport: TransportName;
  live?: boolean;
  writable?: boolean;
  requestLimitMs?: number;
}

export type ServerMessage =
  | { type: 'mounted' }
  | { type: 'refused'; code: string; message: string }
  | { type: 'error'; line: string }
  | ({ type: 'counts' } & Counts)
  /** Descriptors of the FUSE device, and threads of the transport. */
  | { type: 'left'; devices: number; threads: number };

const options = JSON.parse(process.argv[2] ?? '') as ServerOptions;
const counts = noCounts();
const send = (message: ServerMessage) => process.send?.(message);

const view = makeView(options.store, { live: options.live ?? false, counts });

/** What `look` finds; nothing for a descriptor or a thread that is gone by then. */
function each(directory: string, look: (path: string) => string): string[] {
  return readdirSync(directory).map((name) => {
    try {
      return look(`${directory}/${name}`);
    } catch {
      return '';
    }
  });
}

function left(): Extract<ServerMessage, { type: 'left' }> {
  const targets = each('/proc/self/fd', (path) => readlinkSync(path));
  const threads = each('/proc/self/task', (path) => readFileSync(`${path}/comm`, 'utf8'));
  return {
    type: 'left',
    devices: targets.filter((target) => target === '/dev/fuse').length,
    threads: threads.filter((name) => name.startsWith('fuse')).length,
  };
}

try {
  const mounted = await mount(view, options.directory, {
    transport: options.transport,
    writable: options.writable ?? false,
    ...(options.requestLimitMs === undefined ? {} : { requestLimitMs: options.requestLimitMs }),
    onError: (line) => send({ type: 'error', line }),
  });
  process.on('message', (request: string) => {
    const [verb, name = '', seed] = request.split(' ');
    if (verb === 'add') view.add(name, Number(seed));
    if (verb === 'remove') view.remove(name);
    if (verb === 'state') view.state(name);
    if (request === 'counts') send({ type: 'counts', ...counts });
    if (request === 'unmount') void mounted.unmount();
    if (request === 'exit') process.exit(0);
  });
  process.once('SIGTERM', () => void mounted.unmount());
  send({ type: 'mounted' });
  await mounted.gone;
  // A thread that was joined can be seen for a moment more.
  for (let i = 0; i < 100 && left().threads > 0; i++) await setTimeout(10);
  send(left());
} catch (error) {
  if (!(error instanceof CkptError)) throw error;
  send({ type: 'refused', code: error.code, message: error.message });
}
process.disconnect();
