/**
 * The parent that a disk of a checkpoint lies on: where it is, and what tells that it is still the same one, as the
 * redo logs over it hold only differences.
 */
import { isAbsolute, join } from 'node:path';
import { type FileIdentity, fileIdentity } from '../native.js';
import type { ManifestDisk } from './manifest.js';

/** Seconds, milliseconds, microseconds and nanoseconds: how exactly copies keep the time of a file. */
const timeUnitsNs = [1_000_000_000n, 1_000_000n, 1000n, 1n];

/** The absolute path of a disk's parent, for the checkpoint in `directory`. */
export function parentOf(directory: string, { parent }: Pick<ManifestDisk, 'parent'>): string {
  return isAbsolute(parent) ? parent : join(directory, parent);
}

/**
 * What the parent must be, `now` being what it is. One within the checkpoint may have come with a copy of the
 * directory, whose time is cut: tar keeps seconds, and a mount shows milliseconds.
 */
export function expectedParent(
  { parent, parentIdentity: then }: Pick<ManifestDisk, 'parent' | 'parentIdentity'>,
  now: FileIdentity,
): FileIdentity {
  const [thenNs, nowNs] = [BigInt(then.mtimeNs), BigInt(now.mtimeNs)];
  const isCopy = timeUnitsNs.some((unit) => nowNs === thenNs - (thenNs % unit));
  return !isAbsolute(parent) && now.bytes === then.bytes && isCopy ? now : then;
}

/** {@link expectedParent} of the parent that is there. */
export function expectedParentIn(directory: string, disk: ManifestDisk): FileIdentity {
  if (isAbsolute(disk.parent)) return disk.parentIdentity;
  return expectedParent(disk, fileIdentity(parentOf(directory, disk)));
}
