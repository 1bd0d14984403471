/**
 * Overlays that outlast their mount, in a directory that the user names (`-o overlay=DIR`):
 *
 *   DIR/overlays.json                  {"format": 1}: says what the directory is
 *   DIR/lock                           flock held by the mount that uses it
 *   DIR/<vm>@<name>/checkpoint.json    {"id": ...} of the checkpoint whose disks were written to
 *   DIR/<vm>@<name>/<disk>.redo        the redo log over a disk
 *
 * A log is used over the disk of that checkpoint and no other: of the same VM and name, but another id, it is
 * refused. Besides, a log names the one below it. Owned by one mount at a time, until close().
 */
import { mkdir, readdir, realpath, stat } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { attempt, pathExists, readSmallFile, replaceFile } from '../checkpoint/files.js';
import { CkptError, errnoOf } from '../errors.js';
import { type FileLock, lockFile } from '../native.js';
import { FsError } from './errno.js';

const markerFile = 'overlays.json';
const lockName = 'lock';
const checkpointFile = 'checkpoint.json';
const format = 1;
const maxFileBytes = 4096;
/** A mount that is gone still has to end its process. */
const lockLimitMs = 2000;
const lockPollMs = 50;

/** The checkpoint that a disk is of. */
export interface OverlaidCheckpoint {
  vm: string;
  name: string;
  id: string;
}

export class KeptOverlays {
  private constructor(
    readonly directory: string,
    readonly lock: FileLock,
  ) {}

  /**
   * Takes the directory, which is made if it is not there. USAGE when it holds something else, BUSY when another
   * mount uses it.
   */
  static async open(directory: string): Promise<KeptOverlays> {
    const path = resolve(directory);
    await attempt(`cannot keep overlays in ${path}`, async () => {
      try {
        await mkdir(path, { mode: 0o700 });
      } catch (error) {
        if (errnoOf(error) !== 'EEXIST') throw error;
      }
      await checkMarker(path);
    });
    for (const end = performance.now() + lockLimitMs; ; await setTimeout(lockPollMs)) {
      const lock = lockFile(join(path, lockName));
      if (lock !== undefined) return new KeptOverlays(await realpath(path), lock);
      if (performance.now() > end) break;
    }
    throw new CkptError(
      'BUSY',
      `the overlays in ${path} are in use by another mount; unmount it, or name another directory`,
      { directory: path },
    );
  }

  /** Where the log of a disk is or is to be. ESTALE when it is that of another checkpoint. */
  async place(checkpoint: OverlaidCheckpoint, disk: string): Promise<string> {
    const directory = this.#directoryOf(checkpoint);
    const file = join(directory, checkpointFile);
    await attempt(`cannot make an overlay in ${directory}`, async () => {
      await mkdir(directory, { recursive: true, mode: 0o700 });
      const others = (await readdir(directory)).some((name) => name.endsWith('.redo'));
      // A log without that file is of nobody knows what.
      if (!others && !(await pathExists(file))) {
        await replaceFile(file, `${JSON.stringify({ id: checkpoint.id })}\n`);
      }
    });
    const id = await readJson(file, 'id');
    if (id !== checkpoint.id) {
      throw new FsError(
        'ESTALE',
        `the overlay in ${directory} is of checkpoint ${String(id)}, and ${checkpoint.vm}@${checkpoint.name} is now ` +
          `${checkpoint.id}; move it away, or mount with another overlay=DIR`,
      );
    }
    return join(directory, `${disk}.redo`);
  }

  /** When the disk was last written to, in ms; undefined when there is no overlay of it. */
  async writtenMs(checkpoint: OverlaidCheckpoint, disk: string): Promise<number | undefined> {
    try {
      const { mtimeMs } = await stat(join(this.#directoryOf(checkpoint), `${disk}.redo`));
      return Math.floor(mtimeMs);
    } catch (error) {
      if (errnoOf(error) === 'ENOENT') return undefined;
      throw error;
    }
  }

  close(): void {
    this.lock.unlock();
  }

  #directoryOf({ vm, name }: OverlaidCheckpoint): string {
    return join(this.directory, `${vm}@${name}`);
  }
}

/** Makes an empty directory one for overlays; refuses any other. */
async function checkMarker(directory: string): Promise<void> {
  const file = join(directory, markerFile);
  if (!(await pathExists(file))) {
    if ((await readdir(directory)).length > 0) {
      throw new CkptError(
        'USAGE',
        `${directory} is not empty and has no overlays; name an empty or new directory`,
        { directory },
      );
    }
    await replaceFile(file, `${JSON.stringify({ format })}\n`);
  }
  const found = await readJson(file, 'format');
  if (found === format) return;
  throw new CkptError(
    'UNSUPPORTED',
    `the overlays in ${directory} have format ${String(found)}, this version knows ${format}; use another ckptfs`,
    { directory },
  );
}

/** A value of a small JSON object. DAMAGED, NOT_FOUND. */
async function readJson(file: string, key: string): Promise<unknown> {
  const text = (await readSmallFile(file, maxFileBytes)).toString('utf8');
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === 'object' && value !== null && key in value) {
      return (value as Record<string, unknown>)[key];
    }
  } catch {
    // Told below.
  }
  throw new CkptError('DAMAGED', `${file} does not have "${key}"; move the overlay away`, { file });
}
