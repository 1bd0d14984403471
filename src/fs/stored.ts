/**
 * Files of the store shown as they are stored, with their own size, blocks, times and hard links.
 * Symbolic links, devices and sockets in the store are not shown, and no symbolic link is followed.
 */
import { constants, type Stats } from 'node:fs';
import { lstat, open, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { errnoOf } from '../errors.js';
import { fileSource } from '../native.js';
import { FsError } from './errno.js';
import { FsNode, type Attributes, type Caching, type Entry, type OpenFile } from './node.js';

/** A name in the tree for a file or directory by absolute path. */
export interface StoredPath {
  name: string;
  path: string;
}

async function lstatIfThere(path: string): Promise<Stats | undefined> {
  try {
    return await lstat(path);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return undefined;
    throw error;
  }
}

function identityOf(stats: Stats): string {
  return `stored:${stats.dev}:${stats.ino}`;
}

export class StoredFile extends FsNode {
  readonly kind = 'file';
  override readonly caching: Caching = 'checked';
  override readonly key: string;

  constructor(
    readonly path: string,
    override readonly identity: string,
  ) {
    super();
    this.key = identity;
  }

  override async attributes(): Promise<Attributes> {
    const stats = await lstat(this.path);
    return {
      bytes: stats.size,
      blocks: stats.blocks,
      nlink: stats.nlink,
      timeMs: Math.floor(stats.mtimeMs),
    };
  }

  override async open(): Promise<OpenFile> {
    // O_NONBLOCK: what became a FIFO since must not block the open.
    const flags = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;
    const file = await open(this.path, flags);
    try {
      const stats = await file.stat();
      if (!stats.isFile()) throw new FsError('EIO', `${this.path} is not a regular file`);
      const source = fileSource(file.fd, this.path);
      const version = `${stats.size}:${stats.mtimeMs}`;
      return { source, release: () => source.close(), version };
    } finally {
      await file.close();
    }
  }
}

/** A directory of stored files and directories. */
export class StoredDirectory extends FsNode {
  readonly kind = 'directory';

  constructor(
    readonly timeMs: number,
    readonly paths: () => Promise<StoredPath[]>,
  ) {
    super();
  }

  override attributes(): Promise<Attributes> {
    return Promise.resolve({ bytes: 0, blocks: 0, nlink: 1, timeMs: this.timeMs });
  }

  override async list(): Promise<Entry[]> {
    const entries: Entry[] = [];
    for (const { name, path } of await this.paths()) {
      const stats = await lstatIfThere(path);
      if (stats?.isFile()) entries.push({ name, kind: 'file', identity: identityOf(stats) });
      else if (stats?.isDirectory()) entries.push({ name, kind: 'directory' });
    }
    return entries;
  }

  override async child(name: string): Promise<FsNode | undefined> {
    const found = (await this.paths()).find((candidate) => candidate.name === name);
    return found && storedNode(found.path);
  }
}

/** The node of a stored path, undefined when it is not there or neither file nor directory. */
export async function storedNode(path: string): Promise<FsNode | undefined> {
  const stats = await lstatIfThere(path);
  if (stats?.isFile()) return new StoredFile(path, identityOf(stats));
  if (stats?.isDirectory()) return storedTree(path, Math.floor(stats.mtimeMs));
  return undefined;
}

/** A directory of the store as it is. */
export function storedTree(directory: string, timeMs: number): StoredDirectory {
  return new StoredDirectory(timeMs, async () =>
    (await readdir(directory)).map((name) => ({ name, path: join(directory, name) })),
  );
}
