/**
 * The transport over fuse-native 2.2.6 (libfuse 2.9, high level, paths). Its worker threads each wait for
 * an answer from the event loop, so every request is answered exactly once and in bounded time.
 *
 * What the binding lacks decides three things. Open cannot set direct_io or keep_cache per file, so the
 * choice is by mount: direct_io where a live VM is shown, at the price of read-ahead and shared mappings
 * for its checkpoints too; auto_cache otherwise, where a changed size or time drops cached pages at open.
 * The caller's size is not handed to getxattr and listxattr, whose handlers are therefore replaced here.
 * Its unmount runs a shell and does not report; unmounting is mount.ts's.
 */
import { constants } from 'node:fs';
import { CkptError } from '../errors.js';
import { errnoName, errnoNumber, FsError, isTrouble } from './errno.js';
import type Fuse from 'fuse-native';
import type { OpenFile } from './node.js';
import { maxNameBytes, type NodeStat, type Tree } from './tree.js';
import type { Session, Transport, TransportOptions } from './transport.js';

type FuseClass = typeof Fuse;
type Callback<T extends unknown[] = []> = (result: number, ...values: T) => void;

const attachLimitMs = 10_000;
/** O_ACCMODE: the bits of O_RDONLY, O_WRONLY and O_RDWR. */
const accessMode = 3;
const maxHandles = 4096;
/** libfuse 2 never asks for more at once: 32 pages. */
const maxReadBytes = 128 << 10;
const maxPooledBuffers = 16;

/** Requests that change something. The kernel refuses them on a read-only mount unless it is remounted. */
const writingRequests = [
  'truncate',
  'ftruncate',
  'utimens',
  'chown',
  'chmod',
  'mknod',
  'setxattr',
  'removexattr',
  'write',
  'create',
  'unlink',
  'rename',
  'link',
  'symlink',
  'mkdir',
  'rmdir',
] as const;

/** Loads the binding; UNSUPPORTED when it or its shared library is missing. */
export async function loadFuseNative(): Promise<Transport> {
  let binding: FuseClass;
  try {
    binding = (await import('fuse-native')).default;
  } catch (error) {
    throw loadError(error);
  }
  return {
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

async function attach(
  binding: FuseClass,
  tree: Tree,
  directory: string,
  options: TransportOptions,
): Promise<Session> {
  const server = new Server(tree, options);
  const mountOptions = [
    // Who may look in at all is up to allow_other; everything that shows may be read.
    'ro,nosuid,nodev,noexec,fsname=ckptfs,subtype=ckptfs,use_ino',
    // Attributes are asked for each time: a log that grew is read to its end. So a removed name is found
    // out too, whatever its entry says.
    'attr_timeout=0,entry_timeout=1,negative_timeout=0',
    tree.view.live ? 'direct_io' : 'auto_cache',
    ...(options.allowOther ? ['allow_other'] : []),
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
  await within(
    attachLimitMs,
    new Promise<void>((resolve, reject) => {
      session.mount((error) => (error ? reject(error) : resolve()));
    }),
  ).catch((error: unknown) => {
    throw new CkptError(
      'IO',
      `cannot mount on ${directory}: ${(error as Error).message}; ckptfs doctor tells what FUSE needs`,
      { directory },
      { cause: error },
    );
  });
  return {
    end: () => new Promise((resolve) => session.unmount(() => resolve())),
  };
}

/** Rejects with ETIMEDOUT when `work` takes longer; the work itself goes on. */
async function within<T>(limitMs: number, work: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(
      () => reject(new FsError('ETIMEDOUT', `no answer within ${limitMs} ms`)),
      limitMs,
    );
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}

interface Handle {
  file: OpenFile;
  path: string;
  /** Reads under way, also those that were answered with ETIMEDOUT. */
  reads: Set<Promise<unknown>>;
}

/** Answers requests from the tree. */
class Server {
  readonly #handles = new Map<number, Handle>();
  readonly #buffers: Buffer[] = [];
  readonly #uid = process.getuid?.() ?? 0;
  readonly #gid = process.getgid?.() ?? 0;
  #nextHandle = 1;

  constructor(
    readonly tree: Tree,
    readonly options: TransportOptions,
  ) {}

  requests(): Fuse.Requests {
    const refuse = (...args: unknown[]) => (args.at(-1) as Callback)(-errnoNumber('EROFS'));
    return {
      ...Object.fromEntries(writingRequests.map((name) => [name, refuse])),
      getattr: (path, callback) =>
        this.#answer(path, async () => this.#stat(await this.tree.stat(path)), callback),
      readdir: (path, callback) =>
        this.#reply(path, this.tree.list(path), callback, (entries) =>
          callback(
            0,
            entries.map(({ name }) => name),
            entries.map(({ mode, inode }) => this.#stat({ mode, inode })),
          ),
        ),
      readlink: (path, callback) =>
        this.#answer(path, async () => (await this.tree.node(path)).target(), callback),
      statfs: (path, callback) => this.#answer(path, () => this.#statfs(), callback),
      open: (path, flags, callback) => this.#open(path, flags, callback),
      read: (_path, handle, into, length, position, callback) =>
        this.#read(handle, into.subarray(0, length), position, callback),
      release: (_path, handle, callback) => this.#release(handle, callback),
      // These exist so that the binding registers its handlers for them, which are replaced above.
      getxattr: (_path, _name, _position, callback) => callback(-errnoNumber('ENODATA')),
      listxattr: (_path, callback) => callback(-errnoNumber('EIO')),
    };
  }

  /** A value into the caller's buffer; an empty buffer asks for the size. */
  getxattr(path: string, name: string, into: Buffer, callback: Callback): void {
    const work = async () => {
      const value = (await this.tree.node(path)).xattrs().get(name);
      if (value === undefined) throw new FsError('ENODATA');
      return fill(into, Buffer.from(value));
    };
    this.#reply(path, work(), callback, (bytes) => callback(bytes));
  }

  listxattr(path: string, into: Buffer, callback: Callback): void {
    const work = async () => {
      const names = [...(await this.tree.node(path)).xattrs().keys()];
      return fill(into, Buffer.from(names.map((name) => `${name}\0`).join('')));
    };
    this.#reply(path, work(), callback, (bytes) => callback(bytes));
  }

  /** Runs a request and answers with 0 and its value, or with its errno. */
  #answer<T>(path: string, work: () => Promise<T>, callback: Callback<[T?]>): void {
    this.#reply(path, work(), callback, (value) => callback(0, value));
  }

  #reply<T>(path: string, work: Promise<T>, fail: Callback, succeed: (value: T) => void): void {
    within(this.options.requestLimitMs, work).then(succeed, (error: unknown) => {
      const name = errnoName(error);
      if (isTrouble(name)) this.options.onError(`${path}: ${(error as Error).message} (${name})`);
      fail(-errnoNumber(name));
    });
  }

  #stat(stat: Pick<NodeStat, 'mode' | 'inode'> & Partial<NodeStat>): Fuse.Stat {
    const { mode, inode, bytes = 0, blocks = 0, nlink = 1, timeMs = 0 } = stat;
    return {
      mode,
      ino: inode,
      size: bytes,
      blocks,
      nlink,
      uid: this.#uid,
      gid: this.#gid,
      atime: timeMs,
      mtime: timeMs,
      ctime: timeMs,
      blksize: maxReadBytes,
    };
  }

  async #statfs(): Promise<Fuse.Statfs> {
    const capacity = await this.tree.capacity();
    // The binding has 32 bits for each count: larger filesystems are told in larger units.
    const unit = Math.max(1, 2 ** Math.ceil(Math.log2(capacity.blocks / 0xffffffff)));
    const scaled = (count: number) => Math.floor(count / unit);
    const bounded = (count: number) => Math.min(count, 0xffffffff);
    return {
      bsize: capacity.blockBytes * unit,
      frsize: capacity.blockBytes * unit,
      blocks: scaled(capacity.blocks),
      bfree: scaled(capacity.free),
      bavail: scaled(capacity.available),
      files: bounded(capacity.files),
      ffree: bounded(capacity.filesFree),
      favail: bounded(capacity.filesFree),
      namemax: maxNameBytes,
    };
  }

  #open(path: string, flags: number, callback: Callback<[number?]>): void {
    if ((flags & accessMode) !== constants.O_RDONLY || flags & constants.O_TRUNC) {
      callback(-errnoNumber('EROFS'));
      return;
    }
    if (this.#handles.size >= maxHandles) {
      callback(-errnoNumber('ENFILE'));
      return;
    }
    const work = this.tree.node(path).then((node) => node.open());
    let late = false;
    // One that opens after its request was answered with ETIMEDOUT is of no use to anybody.
    work.then((file) => late && file.release()).catch(() => undefined);
    const fail = (result: number) => {
      late = true;
      callback(result);
    };
    this.#reply(path, work, fail, (file) => {
      while (this.#handles.has(this.#nextHandle)) this.#advance();
      this.#handles.set(this.#nextHandle, { file, path, reads: new Set() });
      callback(0, this.#nextHandle);
      this.#advance();
    });
  }

  /** Handles are 31 bits and never 0. */
  #advance(): void {
    this.#nextHandle = (this.#nextHandle % 0x7fffffff) + 1;
  }

  /**
   * Reads into a buffer of our own and copies: the kernel's buffer is gone once the request is answered,
   * and a source that is late still writes into what it was given.
   */
  #read(number: number, into: Buffer, position: number, callback: Callback): void {
    const handle = this.#handles.get(number);
    if (handle === undefined) {
      callback(-errnoNumber('EBADF'));
      return;
    }
    const pooled = into.length <= maxReadBytes ? this.#buffers.pop() : undefined;
    const buffer = pooled ?? Buffer.allocUnsafeSlow(Math.max(into.length, maxReadBytes));
    const reading = readFully(handle.file, buffer.subarray(0, into.length), position);
    const done = () => {
      handle.reads.delete(reading);
      if (buffer.length === maxReadBytes && this.#buffers.length < maxPooledBuffers) {
        this.#buffers.push(buffer);
      }
    };
    handle.reads.add(reading);
    const fail = (result: number) => {
      callback(result);
      void reading.then(done, done);
    };
    this.#reply(handle.path, reading, fail, (bytes) => {
      buffer.copy(into, 0, 0, bytes);
      callback(bytes);
      done();
    });
  }

  #release(number: number, callback: Callback): void {
    const handle = this.#handles.get(number);
    this.#handles.delete(number);
    callback(0);
    if (handle !== undefined) {
      void Promise.allSettled(handle.reads).then(() => handle.file.release());
    }
  }
}

/** Reads until the piece is full or the source ends: the kernel takes a short read for the end. */
async function readFully(
  { source }: OpenFile,
  piece: Uint8Array,
  position: number,
): Promise<number> {
  let done = 0;
  while (done < piece.length) {
    const bytes = await source.read(piece.subarray(done), position + done);
    if (bytes <= 0) break;
    done += bytes;
  }
  return done;
}

/** The getxattr convention: an empty buffer asks for the size, a small one is ERANGE. */
function fill(into: Buffer, value: Buffer): number {
  if (into.length > 0) {
    if (into.length < value.length) throw new FsError('ERANGE');
    value.copy(into);
  }
  return value.length;
}
