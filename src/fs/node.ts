/**
 * The shape that all nodes of the tree share. A node is a value without a path or an inode number: the
 * tree (tree.ts) finds it by name and numbers it. A node refuses what its kind cannot do with the errno
 * that POSIX names, so that a transport calls any verb on any node.
 *
 * Kinds: directory.ts, value.ts (a small text), source.ts (a native source), overlay.ts
 * (one that takes writes), stored.ts (a file of the
 * store), symlink.ts. All state is the event loop's.
 */
import type { ByteSource, WritableSource } from '../native.js';
import { FsError } from './errno.js';

export type NodeKind = 'directory' | 'file' | 'symlink';

export interface Attributes {
  bytes: number;
  /** Allocated blocks of 512 bytes. */
  blocks: number;
  nlink: number;
  /** Modification and change time in ms since the epoch. */
  timeMs: number;
}

/** A name in a directory. */
export interface Entry {
  name: string;
  kind: NodeKind;
  /** As in {@link FsNode}. */
  identity?: string | undefined;
}

/**
 * What the kernel may keep of a node, where the transport can tell it: nothing, as it changes by itself; the
 * bytes, as long as their version is the same at the next open; or all, as it changes through the kernel alone.
 */
export type Caching = 'none' | 'checked' | 'kept';

/** A file held open. The source may be shared with other handles and is closed after the last release. */
export interface OpenFile {
  readonly source: ByteSource;
  readonly release: () => void;
  /** Tells these bytes from those that the file had before, where they change without the kernel. */
  readonly version?: string;
  /** Whether there is something new since it was opened, in files that programs wait for. */
  readonly changed?: () => Promise<boolean>;
}

export interface WritableFile extends OpenFile {
  readonly source: WritableSource;
}

export abstract class FsNode {
  abstract readonly kind: NodeKind;

  /** Whether openWritable() works; of a directory, whether makeDirectory() and removeDirectory() do. */
  readonly writable: boolean = false;

  /** What the inode number is derived from instead of the path: equal for hard links. */
  readonly identity?: string;

  /** Tells what is at a path from what was there before: what has another key is another file. */
  readonly key?: string;

  readonly caching: Caching = 'none';

  abstract attributes(): Promise<Attributes>;

  /** The names in a directory, in any order, without "." and "..". ENOTDIR. */
  list(): Promise<Entry[]> {
    return Promise.reject(new FsError('ENOTDIR'));
  }

  /** The node of that name, undefined when there is none. ENOTDIR. */
  child(_name: string): Promise<FsNode | undefined> {
    return Promise.reject(new FsError('ENOTDIR'));
  }

  /** The text of a symbolic link. EINVAL. */
  target(): Promise<string> {
    return Promise.reject(new FsError('EINVAL'));
  }

  /** Opens a file for reading; every resolved call needs one release(). EISDIR, ELOOP. */
  open(): Promise<OpenFile> {
    return Promise.reject(new FsError(this.kind === 'directory' ? 'EISDIR' : 'ELOOP'));
  }

  /** Opens a file for reading and writing. EROFS. */
  openWritable(): Promise<WritableFile> {
    return Promise.reject(new FsError('EROFS'));
  }

  /** Gives a file this size. EROFS. */
  truncate(_bytes: number): Promise<void> {
    return Promise.reject(new FsError('EROFS'));
  }

  /** Makes a directory of that name in this one. EROFS. */
  makeDirectory(_name: string): Promise<void> {
    return Promise.reject(new FsError('EROFS'));
  }

  /** Removes the directory of that name from this one. EROFS. */
  removeDirectory(_name: string): Promise<void> {
    return Promise.reject(new FsError('EROFS'));
  }

  /** Extended attributes by full name ("user.ckptfs.id"). */
  xattrs(): ReadonlyMap<string, string> {
    return noXattrs;
  }
}

const noXattrs: ReadonlyMap<string, string> = new Map();

/** st_blocks of a file without holes. */
export function blocksOf(bytes: number): number {
  return Math.ceil(bytes / 512);
}
