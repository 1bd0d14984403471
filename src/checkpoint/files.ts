/**
 * File operations that the store builds on: durable writes, hard links with a fallback, small files with
 * a limit, listings. Stateless; failures of the system come out as CkptError naming the file.
 */
import { createHash, randomBytes } from 'node:crypto';
import { constants, createReadStream } from 'node:fs';
import { copyFile, link, mkdir, open, readdir, rename, rm, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { CkptError, errnoOf, systemError } from '../errors.js';

/** A limit on the entries of one directory tree of the store: a checkpoint has some dozens. */
const maxTreeEntries = 100_000;
/** Redo logs lie at disks/<id>/<n>.redo, so three levels; one more to see what does not belong. */
const maxTreeDepth = 4;
/** What memory.map ends with: its own checksum. */
const tailBytes = 8;

/** Runs `work`; a failed system call becomes a CkptError that starts with `what`. */
export async function attempt<T>(what: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw systemError(error, what);
  }
}

/** Makes a directory of mode 0700, and those above it, unless it is there. */
export async function makePrivateDirectory(path: string): Promise<void> {
  await attempt(`cannot create ${path}`, () => mkdir(path, { recursive: true, mode: 0o700 }));
}

/** Makes a file's contents, or a directory's entries, durable. */
export async function syncPath(path: string): Promise<void> {
  const file = await open(path, 'r');
  try {
    await file.sync();
  } finally {
    await file.close();
  }
}

/** Writes a new file and makes its contents (not yet its name) durable. Fails if it exists. */
export async function writeDurable(path: string, data: string | Uint8Array): Promise<void> {
  const file = await open(path, 'wx', 0o600);
  try {
    await file.writeFile(data);
    await file.sync();
  } finally {
    await file.close();
  }
}

/** What a replacement that was cut short leaves: NAME.new-XXXXXXXX. */
export const replacementPattern = /\.new-[0-9a-f]{8}$/;

/** Replaces a small file as a whole: readers and a crash see the old contents or the new. */
export async function replaceFile(path: string, data: string | Uint8Array): Promise<void> {
  const temporary = `${path}.new-${randomBytes(4).toString('hex')}`;
  await attempt(`cannot write ${path}`, async () => {
    try {
      await writeDurable(temporary, data);
      await rename(temporary, path);
      await syncPath(dirname(path));
    } catch (error) {
      await rm(temporary, { force: true });
      throw error;
    }
  });
}

/** Reads a small file whole; DAMAGED when it is larger than `limitBytes`, NOT_FOUND when it is missing. */
export async function readSmallFile(path: string, limitBytes: number): Promise<Buffer> {
  return attempt(`cannot read ${path}`, async () => {
    const file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
    try {
      const { size } = await file.stat();
      if (size > limitBytes) {
        throw new CkptError(
          'DAMAGED',
          `${path} has ${size} bytes, more than the ${limitBytes} that it can have; restore it from a backup`,
          { file: path },
        );
      }
      return await file.readFile();
    } finally {
      await file.close();
    }
  });
}

/** The SHA-256 of a file's contents in hex, read in pieces. */
export async function sha256File(path: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const piece of createReadStream(path, { highWaterMark: 1 << 20 })) {
    hash.update(piece as Buffer);
  }
  return hash.digest('hex');
}

/** The last 8 bytes of a file in hex, or all of a shorter one. */
export async function readTail(path: string): Promise<string> {
  const file = await open(path, 'r');
  try {
    const { size } = await file.stat();
    const bytes = Buffer.alloc(Math.min(size, tailBytes));
    await file.read(bytes, 0, bytes.length, size - bytes.length);
    return bytes.toString('hex');
  } finally {
    await file.close();
  }
}

/** Why a file cannot have another name. */
const noLink = ['EXDEV', 'EPERM', 'EMLINK', 'ENOTSUP'];

/**
 * A second name for a sealed file; a copy (a reflink where the filesystem has them) where hard links
 * cannot be: another filesystem (EXDEV), one without them (EPERM), or too many of them (EMLINK).
 */
export async function linkOrCopy(source: string, target: string): Promise<void> {
  try {
    await link(source, target);
  } catch (error) {
    if (!noLink.includes(errnoOf(error) ?? '')) throw error;
    await copyFile(source, target, constants.COPYFILE_EXCL | constants.COPYFILE_FICLONE);
  }
}

/** A second name for a file whose contents are still to come; UNSUPPORTED where there cannot be one. */
export async function linkOnly(source: string, target: string): Promise<void> {
  try {
    await link(source, target);
  } catch (error) {
    if (!noLink.includes(errnoOf(error) ?? '')) throw error;
    throw new CkptError(
      'UNSUPPORTED',
      `${source} cannot have another name on this filesystem; fetch all of the checkpoint first (--eager)`,
    );
  }
}

/** The names in a directory, sorted; empty when there is none. */
export async function namesIn(directory: string): Promise<string[]> {
  try {
    return (await readdir(directory)).sort();
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return [];
    throw systemError(error, `cannot read directory ${directory}`);
  }
}

export async function pathExists(path: string): Promise<boolean> {
  try {
    await stat(path);
    return true;
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return false;
    throw systemError(error, `cannot look at ${path}`);
  }
}

/** What a directory tree holds, by relative path. */
export interface Tree {
  files: Map<string, number>;
  directories: string[];
  /** Neither files nor directories (symbolic links, devices): nothing that the store makes. */
  others: string[];
}

/** Walks a tree without following symbolic links; sizes in bytes. Within named limits. */
export async function walkTree(root: string): Promise<Tree> {
  const tree: Tree = { files: new Map(), directories: [], others: [] };
  let entries = 0;
  const walk = async (relative: string, depth: number): Promise<void> => {
    for (const entry of await readdir(join(root, relative), { withFileTypes: true })) {
      const path = relative === '' ? entry.name : `${relative}/${entry.name}`;
      if (++entries > maxTreeEntries || depth > maxTreeDepth) {
        throw new CkptError(
          'DAMAGED',
          `${root} holds more than a checkpoint can; remove what does not belong`,
          {
            file: path,
          },
        );
      }
      if (entry.isDirectory()) {
        tree.directories.push(path);
        await walk(path, depth + 1);
      } else if (entry.isFile()) {
        tree.files.set(path, (await stat(join(root, path))).size);
      } else {
        tree.others.push(path);
      }
    }
  };
  await attempt(`cannot read ${root}`, () => walk('', 1));
  return tree;
}
