/**
 * A large file that is being made, beside the place where it will be. It gets its name when it is whole and
 * durable. There are two kinds, of one shape:
 *
 *   TemporaryFile   PATH.new-XXXXXXXX; whatever fails, nothing is left of it
 *   PartialFile     PATH.partial/: what is there when its maker is cancelled or killed is kept for the next one
 *
 * One caller at a time; ends with publish() or abandon(), on every path.
 */
import { randomBytes } from 'node:crypto';
import { type FileHandle, link, mkdir, open, rename, rm, rmdir, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { z } from 'zod';
import { CkptError, errnoOf } from '../errors.js';
import { type FileLock, lockFile } from '../native.js';
import { namesIn, pathExists, readSmallFile, replaceFile, syncPath } from './files.js';

export interface NewFile {
  readonly file: FileHandle;
  /** From here on it has to be written. */
  readonly doneBytes: number;
  /** The first `doneBytes` have been written: a moment to make them safe. */
  keep(doneBytes: number): Promise<void>;
  /** Gives it its name, durably; the place of another file only with `replace`. EXISTS without. */
  publish(replace: boolean): Promise<void>;
  /** Ends it unpublished, `doneBytes` of it written; resolves with how much of that is kept. */
  abandon(doneBytes: number): Promise<number>;
}

export function taken(path: string): CkptError {
  return new CkptError('EXISTS', `${path} exists already; choose another file or give --force`, {
    path,
  });
}

/** Gives a file its name: a link refuses one that is taken, where there are links. */
async function nameFile(made: string, path: string, replace: boolean): Promise<void> {
  if (!replace) {
    try {
      return await link(made, path);
    } catch (error) {
      if (errnoOf(error) === 'EEXIST') throw taken(path);
      if (!['EPERM', 'ENOTSUP', 'EOPNOTSUPP'].includes(errnoOf(error) ?? '')) throw error;
      if (await pathExists(path)) throw taken(path);
    }
  }
  await rename(made, path);
}

/** Makes a file durable, and then its name. */
async function publishFile(
  file: FileHandle,
  made: string,
  path: string,
  replace: boolean,
): Promise<void> {
  await file.sync();
  await nameFile(made, path, replace);
  await syncPath(dirname(path));
  await file.close();
}

export class TemporaryFile implements NewFile {
  readonly doneBytes = 0;
  readonly #path: string;
  readonly #made: string;

  private constructor(
    readonly file: FileHandle,
    path: string,
    made: string,
  ) {
    this.#path = path;
    this.#made = made;
  }

  /** A file of `bytes` zeros. */
  static async create(path: string, bytes: number): Promise<TemporaryFile> {
    const made = `${path}.new-${randomBytes(4).toString('hex')}`;
    const created = new TemporaryFile(await open(made, 'wx', 0o600), path, made);
    await created.file.truncate(bytes).catch(async (error: unknown) => {
      await created.abandon();
      throw error;
    });
    return created;
  }

  keep(): Promise<void> {
    return Promise.resolve();
  }

  async publish(replace: boolean): Promise<void> {
    await publishFile(this.file, this.#made, this.#path, replace);
    await rm(this.#made, { force: true });
  }

  async abandon(): Promise<number> {
    await this.file.close();
    await rm(this.#made, { force: true });
    return 0;
  }
}

const dataFile = 'data';
const stateFile = 'state.json';
const lockName = 'lock';
const maxStateBytes = 64 << 10;

const schema = z.strictObject({
  format: z.literal(1),
  /** What the data is of. */
  source: z.string(),
  bytes: z.int().nonnegative(),
  /** So much of it, from the start, is durable. */
  doneBytes: z.int().nonnegative(),
});

/**
 *   PATH.partial/data         as long as it will be, with holes where nothing is yet
 *   PATH.partial/state.json   what it is of, and how much of it is durable
 *   PATH.partial/lock         held (flock) by who makes it
 *
 * The state never says more than what is there: it is written after the data was made durable, and removed,
 * durably, before other data is begun. So a kill or a power cut at any point costs what was done since.
 */
export class PartialFile implements NewFile {
  #keptBytes: number;

  private constructor(
    private readonly path: string,
    private readonly lock: FileLock,
    private readonly of: { source: string; bytes: number },
    readonly file: FileHandle,
    readonly doneBytes: number,
  ) {
    this.#keptBytes = doneBytes;
  }

  static directoryOf(path: string): string {
    return `${path}.partial`;
  }

  /** Goes on with what there is of the same source, unless `restart`. BUSY while another process does. */
  static async open(
    path: string,
    of: { source: string; bytes: number },
    restart: boolean,
  ): Promise<PartialFile> {
    const directory = PartialFile.directoryOf(path);
    await mkdir(directory, { mode: 0o700 }).catch((error: unknown) => {
      if (errnoOf(error) !== 'EEXIST') throw error;
    });
    const lock = lockFile(join(directory, lockName));
    if (!lock) {
      throw new CkptError(
        'BUSY',
        `${path} is being written by another process; wait for it, or choose another file`,
        { path },
      );
    }
    try {
      const doneBytes = restart ? 0 : await usable(directory, of);
      const data = join(directory, dataFile);
      if (doneBytes === 0) {
        await rm(join(directory, stateFile), { force: true });
        await syncPath(directory);
        await rm(data, { force: true });
      }
      const file = await open(data, doneBytes === 0 ? 'wx' : 'r+', 0o600);
      await file.truncate(doneBytes); // beyond are zeros, which are left out when it is written
      await file.truncate(of.bytes);
      return new PartialFile(path, lock, of, file, doneBytes);
    } catch (error) {
      lock.unlock();
      throw error;
    }
  }

  async keep(doneBytes: number): Promise<void> {
    await this.file.sync();
    const state = { format: 1, ...this.of, doneBytes } satisfies z.infer<typeof schema>;
    const file = join(PartialFile.directoryOf(this.path), stateFile);
    await replaceFile(file, `${JSON.stringify(state, null, 2)}\n`);
    this.#keptBytes = doneBytes;
  }

  async publish(replace: boolean): Promise<void> {
    const data = join(PartialFile.directoryOf(this.path), dataFile);
    await publishFile(this.file, data, this.path, replace);
    await this.#remove();
  }

  async abandon(doneBytes: number): Promise<number> {
    try {
      if (doneBytes > this.#keptBytes) await this.keep(doneBytes);
    } catch {
      // What was kept before is there all the same.
    }
    await this.file.close();
    if (this.#keptBytes === 0) await this.#remove();
    else this.lock.unlock();
    return this.#keptBytes;
  }

  /** Removes its own files, and the directory if nobody put anything else there. */
  async #remove(): Promise<void> {
    const directory = PartialFile.directoryOf(this.path);
    const own = (name: string): boolean =>
      [dataFile, lockName].includes(name) || name.startsWith(stateFile);
    for (const name of (await namesIn(directory)).filter(own)) {
      await rm(join(directory, name), { force: true });
    }
    await rmdir(directory).catch(() => undefined);
    this.lock.unlock();
  }
}

/** How much in the directory of a partial file can be gone on with. */
async function usable(directory: string, of: { source: string; bytes: number }): Promise<number> {
  const found = await stat(join(directory, dataFile)).catch(() => undefined);
  // One that was published already, when a kill came, is not written to.
  if (found?.size !== of.bytes || found.nlink !== 1) return 0;
  try {
    const text = await readSmallFile(join(directory, stateFile), maxStateBytes);
    const state = schema.parse(JSON.parse(text.toString('utf8')));
    const same = state.source === of.source && state.bytes === of.bytes;
    return same && state.doneBytes <= of.bytes ? state.doneBytes : 0;
  } catch {
    return 0; // there is none, or it was not written by us: nothing is known of the data
  }
}
