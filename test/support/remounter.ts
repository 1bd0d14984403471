/**
 * A process that mounts a test view each time it is told to, having unmounted the one before, and answers with the transport:
 * `remounter STORE DIRECTORY [TRANSPORT]`. It ends, and its mount with it, when its starter goes away.
 */
import { type Mount, mount, parseTransport } from '../../src/fs/mount.js';
import { makeView } from '../fs-view.js';

const [store = '', directory = '', transport = ''] = process.argv.slice(2);
let mounted: Mount | undefined;

async function remount(): Promise<void> {
  await mounted?.unmount();
  mounted = await mount(
    makeView(store),
    directory,
    transport === '' ? {} : { transport: parseTransport(transport) },
  );
  globalThis.gc?.();
  process.send?.(mounted.transport);
}

process.on('message', () => {
  remount().catch((error: unknown) => {
    process.stderr.write(`${String(error)}\n`);
    process.exit(1);
  });
});
process.on('disconnect', () => {
  void mounted?.unmount().finally(() => process.exit());
});
