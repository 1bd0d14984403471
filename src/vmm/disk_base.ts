/**
 * What the redo logs of a VM's disk lie on:
 *
 *   <vm>/disks/<id>/base.json   which file is the parent, what it looks like, what was committed into it
 *   <vm>/disks/<id>/<n>.raw     a parent of the VM's own: a copy, made because others refer to the first one
 *   <vm>/disks/<id>/<n>.redo    the logs, n from `firstLog` on; names tell which of them replaces others
 *                               (disk_names.ts)
 *
 * Without base.json it is the disk's configured parent. The file is replaced as one; whatever it does not name
 * was committed, or was going to be when a kill came, and goes at the next start, as logs do that were replaced
 * or never finished.
 *
 * Owner: the process that holds the VM's lock. Others may read.
 */
import { rm } from 'node:fs/promises';
import { basename, dirname, isAbsolute, join } from 'node:path';
import { z } from 'zod';
import {
  currentLogs,
  isLog,
  isOwnParent,
  isUnfinishedLog,
  logName,
  logNumber,
} from '../checkpoint/disk_names.js';
import { attempt, namesIn, pathExists, readSmallFile, replaceFile } from '../checkpoint/files.js';
import { CkptError } from '../errors.js';
import type { DiskLayers } from '../native.js';

const baseFile = 'base.json';
/** Beside the directories of disks that are arriving (arriving.ts). */
export const arrivingMark = '.arriving';
const maxBaseBytes = 64 << 10;

const schema = z.strictObject({
  format: z.literal(1),
  /** Absolute, or the name of a file beside this one. */
  parent: z.string().min(1).max(4096),
  /** What it must look like; not known while the guest or a commit writes to it. */
  parentIdentity: z
    .strictObject({ bytes: z.int().nonnegative(), mtimeNs: z.string().regex(/^\d{1,30}$/) })
    .optional(),
  /** Id of the last log that was committed into it. */
  committed: z
    .string()
    .regex(/^[0-9a-f]{32}$/)
    .optional(),
  /** Logs of lower numbers have been committed. */
  firstLog: z.int().nonnegative(),
  /** A commit into the parent has begun, of the logs up to this number. */
  committing: z.int().nonnegative().optional(),
});
export type DiskBase = Omit<z.infer<typeof schema>, 'format'>;

/** The base of the disk in `directory` whose configured parent is `parent`. DAMAGED. */
export async function readBase(directory: string, parent: string): Promise<DiskBase> {
  const file = join(directory, baseFile);
  if (!(await pathExists(file))) return { parent, firstLog: 0 };
  const bytes = await readSmallFile(file, maxBaseBytes);
  try {
    return schema.parse(JSON.parse(bytes.toString('utf8')));
  } catch (cause) {
    throw new CkptError(
      'DAMAGED',
      `${file} is damaged; restore it from a backup, or go back to a checkpoint of the VM`,
      { file },
      { cause },
    );
  }
}

/** Replaces the base, durably. A parent in `directory` is named by its name. */
export function writeBase(directory: string, base: DiskBase): Promise<void> {
  const parent = dirname(base.parent) === directory ? basename(base.parent) : base.parent;
  const text = JSON.stringify({ ...base, format: 1, parent }, null, 2);
  return replaceFile(join(directory, baseFile), `${text}\n`);
}

/** The absolute path of the parent. */
export function parentPath(directory: string, { parent }: DiskBase): string {
  return isAbsolute(parent) ? parent : join(directory, parent);
}

/** The layers of the disk in `directory`, as the addon opens them. BUSY while they are arriving: what has not come would
 *  be read as zeros. */
export async function layersOf(directory: string, parent: string): Promise<DiskLayers> {
  if (await pathExists(join(dirname(directory), arrivingMark))) {
    throw new CkptError(
      'BUSY',
      `the disk in ${directory} is still arriving from another host; wait until it has come ("ckptfs info")`,
      { directory },
    );
  }
  const base = await readBase(directory, parent);
  const { parentIdentity, committed } = base;
  return {
    parent: parentPath(directory, base),
    ...(parentIdentity === undefined ? {} : { parentIdentity }),
    ...(committed === undefined ? {} : { committed }),
    redo: currentLogs(await namesIn(directory))
      .filter((name) => logNumber(name) >= base.firstLog)
      .map((name) => ({ path: join(directory, name) })),
  };
}

/** Where the log after the newest goes. */
export async function nextRedo(directory: string): Promise<string> {
  const { firstLog } = await readBase(directory, '/');
  const numbers = (await namesIn(directory)).filter(isLog).map(logNumber);
  return join(directory, logName(Math.max(firstLog, 1, ...numbers.map((n) => n + 1))));
}

/** Removes what is not part of the disk. For the holder of the VM's lock, while no log is being made. */
export async function cleanBase(directory: string, parent: string): Promise<void> {
  const base = await readBase(directory, parent);
  const names = await namesIn(directory);
  const current = new Set(currentLogs(names).filter((name) => logNumber(name) >= base.firstLog));
  for (const name of names) {
    const log = isUnfinishedLog(name) || (isLog(name) && !current.has(name));
    if (!log && !(isOwnParent(name) && name !== base.parent)) continue;
    const path = join(directory, name);
    await attempt(`cannot remove ${path}`, () => rm(path, { force: true }));
  }
}
