/** Copies of disks: of raw ones their blocks alone where the filesystem shares those (a reflink), else their data. */
import { randomBytes } from 'node:crypto';
import { constants } from 'node:fs';
import { copyFile, rm, stat } from 'node:fs/promises';
import { errnoOf, systemError } from '../errors.js';
import { type DiskLayers, openDisk } from '../native.js';
import { exportFile, type ExportOptions } from './export.js';
import { attempt } from './files.js';

/** Makes `target` by a reflink; false where that cannot be. EXISTS, NO_SPACE, IO. */
export async function reflinkDisk(source: string, target: string): Promise<boolean> {
  try {
    await copyFile(source, target, constants.COPYFILE_EXCL | constants.COPYFILE_FICLONE_FORCE);
    return true;
  } catch (error) {
    if (errnoOf(error) !== 'EEXIST') await rm(target, { force: true });
    if (['ENOTSUP', 'EOPNOTSUPP', 'EXDEV', 'EINVAL', 'ENOSYS'].includes(errnoOf(error) ?? '')) {
      return false;
    }
    throw systemError(error, `cannot copy ${source}`);
  }
}

/** Makes `target` in whichever way there is, with holes where the disk is zero (requirement A5). */
export async function copyDisk(
  source: string,
  target: string,
  options: ExportOptions = {},
): Promise<void> {
  if (await reflinkDisk(source, target)) return;
  const disk = await openDisk({ parent: source, redo: [] });
  try {
    await exportFile(disk, target, options);
  } finally {
    disk.close();
  }
}

export interface FlattenOptions extends ExportOptions {
  /** In the place of a file that is there. */
  replace?: boolean;
  /** Not on top of what an earlier attempt has copied. */
  restart?: boolean;
}

/**
 * Writes all layers of a disk to one raw file, with holes where it is zero. An attempt that is cut short leaves what
 * it has copied in TARGET.partial, and the next one goes on with that, if the disk is still the same. Resolves with
 * the size of the disk, and how much of it was there from before. EXISTS, BUSY, DAMAGED, NO_SPACE, CANCELLED, IO.
 */
export async function flattenDisk(
  layers: DiskLayers,
  target: string,
  { restart = false, ...options }: FlattenOptions = {},
): Promise<{ bytes: number; resumedBytes: number }> {
  // Opened first: while it is open nobody writes to what it is identified by.
  const disk = await openDisk(layers);
  try {
    const resume = { source: await contentsOf(layers), restart };
    const resumedBytes = await exportFile(disk, target, { ...options, resume });
    return { bytes: disk.bytes, resumedBytes };
  } finally {
    disk.close();
  }
}

/** What tells the contents of a disk from any other: its files, and that none of them was written to since. */
async function contentsOf({ parent, committed, redo }: DiskLayers): Promise<string> {
  const files = await Promise.all(
    [parent, ...redo.map(({ path }) => path)].map((path) =>
      attempt(`cannot look at ${path}`, () => stat(path, { bigint: true })),
    ),
  );
  const identities = files.map((file) =>
    // A device does not tell when it was written to.
    file.isFile()
      ? [file.dev, file.ino, file.size, file.mtimeNs].join(':')
      : randomBytes(16).toString('hex'),
  );
  return [committed ?? '', ...identities].join(' ');
}
