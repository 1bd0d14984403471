/**
 * The transport over fuse-native 2.2.6 (libfuse 2.9, high level, paths); fuse_server.ts answers its requests.
 *
 * What the binding lacks decides three things. Open cannot set direct_io or keep_cache per file, so the
 * choice is by mount: direct_io where a live VM is shown, at the price of read-ahead and shared mappings
 * for its checkpoints too; auto_cache otherwise, where a changed size or time drops cached pages at open.
 * The caller's size is not handed to getxattr and listxattr, whose handlers are therefore replaced here.
 * Its unmount runs a shell and does not report; unmounting is mount.ts's.
 *
 * libfuse ends its threads with pthread_cancel(). One that is just in libuv's handler of a signal then, such as that of the
 * end of umount(8), takes the lock of all of libuv's signals with it: no child would be seen to end any more. So they are
 * made with signals held.
 */
import type Fuse from 'fuse-native';
import { CkptError } from '../errors.js';
import { holdSignals } from '../native.js';
import { FuseServer } from './fuse_server.js';
import { kernelOptions } from './mount_options.js';
import type { Tree } from './tree.js';
import { within } from './tree_server.js';
import type { Session, Transport, TransportOptions } from './transport.js';

type FuseClass = typeof Fuse;

const attachLimitMs = 10_000;

/** Loads the binding; UNSUPPORTED when it or its shared library is missing. */
export async function loadFuseNative(): Promise<Transport> {
  let binding: FuseClass;
  try {
    binding = (await import('fuse-native')).default;
  } catch (error) {
    throw loadError(error);
  }
  return {
    name: 'fuse-native',
    attach: (tree, directory, options) => attach(binding, tree, directory, options),
  };
}

/** Why fuse-native could not be loaded, with the remedy. */
export function loadError(error: unknown): CkptError {
  const message = error instanceof Error ? error.message : String(error);
  const remedy = message.includes('libfuse.so.2')
    ? 'libfuse.so.2 is missing: install the Debian package libfuse2'
    : `fuse-native cannot be loaded (${message}): run npm run setup`;
  return new CkptError('UNSUPPORTED', remedy, {}, { cause: error });
}

let exitsWithoutTeardown = false;

/**
 * Programs that keep a file open go on asking when the mount is gone, and the binding's threads call into Node's
 * environment for them, also while that is being taken down at a natural end of the process. process.exit() leaves it.
 */
function exitWithoutTeardown(): void {
  if (exitsWithoutTeardown) return;
  exitsWithoutTeardown = true;
  process.once('exit', () => process.exit());
}

async function attach(
  binding: FuseClass,
  tree: Tree,
  directory: string,
  options: TransportOptions,
): Promise<Session> {
  const server = new FuseServer(tree, options);
  const mountOptions = [
    ...kernelOptions(tree, options),
    'use_ino',
    // Without it a request to write has one page.
    ...(tree.writable ? ['big_writes'] : []),
    // Attributes are asked for each time: a log that grew is read to its end. So a removed name is found
    // out too, whatever its entry says.
    'attr_timeout=0,entry_timeout=1,negative_timeout=0',
    tree.view.live ? 'direct_io' : 'auto_cache',
  ].join(',');

  class KernelSession extends binding {
    override _fuseOptions(): string {
      return `-o${mountOptions}`;
    }

    override _op_getxattr(
      signal: (result: number, memory: ArrayBufferLike) => void,
      path: string,
      name: string,
      value: Buffer,
    ): void {
      server.getxattr(path, name, value, (result) => signal(result, value.buffer));
    }

    override _op_listxattr(
      signal: (result: number, memory: ArrayBufferLike) => void,
      path: string,
      list: Buffer,
    ): void {
      server.listxattr(path, list, (result) => signal(result, list.buffer));
    }
  }
  // close() below is called when the mount is gone already.
  binding.unmount = (_directory, callback) => callback(null);

  const session = new KernelSession(directory, server.requests(), { timeout: false });
  const release = holdSignals();
  await within(
    attachLimitMs,
    new Promise<void>((resolve, reject) => {
      session.mount((error) => (error ? reject(error) : resolve()));
    }),
  )
    .catch((error: unknown) => {
      throw new CkptError(
        'IO',
        `cannot mount on ${directory}: ${(error as Error).message}; ckptfs doctor tells what FUSE needs`,
        { directory },
        { cause: error },
      );
    })
    .finally(release);
  return {
    async end() {
      await new Promise<void>((resolve) => session.unmount(() => resolve()));
      server.close();
      exitWithoutTeardown();
    },
  };
}
