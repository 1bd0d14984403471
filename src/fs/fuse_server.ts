/**
 * The requests of fuse-native, in its words, each answered exactly once and in bounded time: the binding's
 * worker threads wait for the answers. What they are is tree_server.ts's.
 */
import { constants } from 'node:fs';
import type Fuse from 'fuse-native';
import { errnoNumber } from './errno.js';
import { type Capacity, maxNameBytes, type NodeStat, type Tree } from './tree.js';
import { type Answer, TreeServer } from './tree_server.js';
import type { TransportOptions } from './transport.js';

type Callback<T extends unknown[] = []> = (result: number, ...values: T) => void;

/** O_ACCMODE: the bits of O_RDONLY, O_WRONLY and O_RDWR. */
const accessMode = 3;
/** libfuse 2 never asks for more at once: 32 pages. */
const maxPieceBytes = 128 << 10;

/** Requests that change the tree in ways that it never does. */
const changingRequests = [
  'utimens',
  'chown',
  'chmod',
  'mknod',
  'setxattr',
  'removexattr',
  'create',
  'unlink',
  'link',
  'symlink',
] as const;

export class FuseServer {
  readonly #server: TreeServer;

  constructor(tree: Tree, options: TransportOptions) {
    this.#server = new TreeServer(tree, options);
  }

  requests(): Fuse.Requests {
    const server = this.#server;
    const refuse = (...args: unknown[]) => (args.at(-1) as Callback)(-errnoNumber('EROFS'));
    return {
      ...Object.fromEntries(changingRequests.map((name) => [name, refuse])),
      getattr: (path, callback) =>
        reply(server.stat(path), callback, (stat) => callback(0, statOf(stat))),
      readdir: (path, callback) =>
        reply(server.list(path), callback, (entries) =>
          callback(
            0,
            entries.map(({ name }) => name),
            entries.map(({ mode, inode }) => statOf({ mode, inode })),
          ),
        ),
      readlink: (path, callback) =>
        reply(server.target(path), callback, (target) => callback(0, target)),
      mkdir: (path, _mode, callback) =>
        reply(server.makeDirectory(path), callback, () => callback(0)),
      rmdir: (path, callback) => reply(server.removeDirectory(path), callback, () => callback(0)),
      rename: (path, _to, callback) => reply(server.rename(path), callback, () => callback(0)),
      statfs: (path, callback) =>
        reply(server.capacity(path), callback, (capacity) => callback(0, statfsOf(capacity))),
      open: (path, flags, callback) =>
        reply(
          server.open(path, (flags & accessMode) !== constants.O_RDONLY),
          callback,
          ({ handle }) => callback(0, handle),
        ),
      read: (_path, handle, into, length, position, callback) =>
        reply(
          // The kernel's buffer is gone once the request is answered.
          server.read(handle, length, position, (piece) => piece.copy(into)),
          callback,
          callback,
        ),
      write: (_path, handle, from, length, position, callback) =>
        reply(server.write(handle, from.subarray(0, length), position), callback, callback),
      fsync: (_path, _dataOnly, handle, callback) =>
        reply(server.sync(handle), callback, () => callback(0)),
      truncate: (path, bytes, callback) =>
        reply(server.truncate(path, bytes), callback, () => callback(0)),
      ftruncate: (path, _handle, bytes, callback) =>
        reply(server.truncate(path, bytes), callback, () => callback(0)),
      release: (_path, handle, callback) => {
        server.release(handle);
        callback(0);
      },
      // These exist so that the binding registers its handlers for them, which are replaced above.
      getxattr: (_path, _name, _position, callback) => callback(-errnoNumber('ENODATA')),
      listxattr: (_path, callback) => callback(-errnoNumber('EIO')),
    };
  }

  /** A value into the caller's buffer; an empty buffer asks for the size. */
  getxattr(path: string, name: string, into: Buffer, callback: Callback): void {
    reply(this.#server.xattr(path, name), callback, (value) => callback(fill(into, value)));
  }

  listxattr(path: string, into: Buffer, callback: Callback): void {
    reply(this.#server.xattrs(path), callback, (names) => callback(fill(into, names)));
  }

  /** Nobody asks any more. */
  close(): void {
    this.#server.close();
  }
}

/** Answers with the negative errno, or as `succeed` does. */
function reply<T>(work: Promise<Answer<T>>, fail: Callback, succeed: (value: T) => void): void {
  void work.then((answer) => {
    if ('value' in answer) succeed(answer.value);
    else fail(-answer.errno);
  });
}

function statOf(stat: Pick<NodeStat, 'mode' | 'inode'> & Partial<NodeStat>): Fuse.Stat {
  const { mode, inode, bytes = 0, blocks = 0, nlink = 1, uid = 0, gid = 0, timeMs = 0 } = stat;
  return {
    mode,
    ino: inode,
    size: bytes,
    blocks,
    nlink,
    uid,
    gid,
    atime: timeMs,
    mtime: timeMs,
    ctime: timeMs,
    blksize: maxPieceBytes,
  };
}

function statfsOf(capacity: Capacity): Fuse.Statfs {
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

/** The getxattr convention: an empty buffer asks for the size, a small one is ERANGE. */
function fill(into: Buffer, text: string): number {
  const value = Buffer.from(text);
  if (into.length > 0) {
    if (into.length < value.length) return -errnoNumber('ERANGE');
    value.copy(into);
  }
  return value.length;
}
