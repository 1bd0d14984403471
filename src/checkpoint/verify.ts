/**
 * Verification of a whole checkpoint: every byte that it consists of, and the parents that it stands on.
 *
 * Damage is collected, not thrown, so that one report names all of it. Only what keeps the check itself
 * from running (no such checkpoint, cancelled) is thrown.
 */
import { join } from 'node:path';
import { CkptError, toCkptError } from '../errors.js';
import * as addon from '../native.js';
import type { Damage } from '../native.js';
import { sha256File, type Tree, walkTree } from './files.js';
import { checkpointBytes, steadily } from './checkpoints.js';
import {
  type Manifest,
  type ManifestDisk,
  manifestFile,
  memoryMapFile,
  readManifest,
  segmentFiles,
} from './manifest.js';
import { expectedParent, parentOf } from './parent.js';

/** What verification needs of the addon. */
export type VerifyNative = Pick<
  typeof addon,
  'verifyMemoryImage' | 'verifyRedoLog' | 'fileIdentity'
>;

export interface VerifyOptions {
  /** Bytes checked so far, and all there are. */
  onProgress?: (doneBytes: number, totalBytes: number) => void;
  signal?: AbortSignal | undefined;
  /** Shared by the verifications of a run: segments that several checkpoints have are read once. */
  verified?: addon.VerifiedSegments | undefined;
  /** In the place of the addon, for tests. */
  native?: VerifyNative;
}

/** Checks a checkpoint directory; resolves with all damage found, none when it is whole. */
export function verifyCheckpoint(
  directory: string,
  options: VerifyOptions = {},
): Promise<Damage[]> {
  return steadily(
    directory,
    () => verifyDirectory(directory, options),
    (damage) => damage.length > 0,
  );
}

async function verifyDirectory(directory: string, options: VerifyOptions): Promise<Damage[]> {
  const native = options.native ?? addon;
  const found: Damage[] = [];
  /** Runs one check; what it throws is damage to `file`. */
  const check = async (file: string, work: () => Damage[] | Promise<Damage[]>): Promise<void> => {
    if (options.signal?.aborted) throw new CkptError('CANCELLED', 'the verification was cancelled');
    try {
      found.push(...(await work()));
    } catch (error) {
      found.push({ file, what: damageOf(error) });
    }
  };

  let manifest: Manifest;
  try {
    manifest = await readManifest(directory);
  } catch (error) {
    return [{ file: manifestFile, what: damageOf(error) }];
  }
  const tree = await walkTree(directory);
  found.push(...compareTree(manifest, tree));

  const totalBytes = checkpointBytes(manifest);
  let doneBytes = 0;
  const advance = (bytes: number) => options.onProgress?.((doneBytes += bytes), totalBytes);
  const present = (path: string) => tree.files.has(path);

  for (const file of manifest.files) {
    if (file.sha256 === undefined || !present(file.path)) continue;
    await check(file.path, () => checkSum(join(directory, file.path), file.path, file.sha256));
    advance(file.bytes);
  }
  if (present(memoryMapFile)) {
    const memoryBytes = segmentBytes(manifest);
    const hooks = {
      ...{ signal: options.signal, verified: options.verified },
      // The map has been counted above.
      onProgress: (bytes: number, total: number) =>
        options.onProgress?.(doneBytes + Math.max(0, bytes - total + memoryBytes), totalBytes),
    };
    await check(memoryMapFile, () => native.verifyMemoryImage(directory, hooks));
    advance(memoryBytes);
  }
  const bytesOf = new Map(manifest.files.map((file) => [file.path, file.bytes]));
  for (const path of manifest.disks.flatMap((disk) => disk.redo)) {
    const bytes = bytesOf.get(path) ?? 0;
    if (present(path)) await check(path, () => native.verifyRedoLog(join(directory, path), bytes));
    advance(bytes);
  }
  for (const disk of manifest.disks) {
    await check(disk.parent, () => checkParent(native, directory, disk));
  }
  return found;
}

/** Why a check failed; a cancellation or a defect is no damage and goes on up. */
function damageOf(error: unknown): string {
  const known = toCkptError(error);
  if (['DAMAGED', 'NOT_FOUND', 'IO', 'UNSUPPORTED', 'USAGE'].includes(known.code))
    return known.message;
  throw error;
}

/** Missing files, wrong sizes, and whatever the manifest does not name. */
function compareTree(manifest: Manifest, tree: Tree): Damage[] {
  const found: Damage[] = [];
  const named = new Set([manifestFile]);
  const parents = new Set<string>();
  for (const { path, bytes } of manifest.files) {
    named.add(path);
    for (let at = path.indexOf('/'); at >= 0; at = path.indexOf('/', at + 1)) {
      parents.add(path.slice(0, at));
    }
    const actual = tree.files.get(path);
    if (actual === undefined) found.push({ file: path, what: 'missing' });
    else if (actual !== bytes)
      found.push({ file: path, what: `${actual} bytes instead of ${bytes}` });
  }
  const there = [...tree.files.keys(), ...tree.others].filter((path) => !named.has(path));
  const directories = tree.directories.filter((path) => !parents.has(path));
  for (const path of [...there, ...directories]) {
    found.push({ file: path, what: 'not named in the manifest' });
  }
  return found;
}

async function checkSum(path: string, file: string, expected?: string): Promise<Damage[]> {
  return (await sha256File(path)) === expected ? [] : [{ file, what: 'its checksum differs' }];
}

function segmentBytes(manifest: Manifest): number {
  return segmentFiles(manifest).reduce((sum, { bytes }) => sum + bytes, 0);
}

/** The parent must be what it was when the checkpoint was taken: the redo logs hold only differences. */
function checkParent(native: VerifyNative, directory: string, disk: ManifestDisk): Damage[] {
  const now = native.fileIdentity(parentOf(directory, disk));
  const then = expectedParent(disk, now);
  if (now.bytes === then.bytes && now.mtimeNs === then.mtimeNs) return [];
  const what = `the parent of disk ${disk.id} has changed since the checkpoint`;
  return [{ file: disk.parent, what }];
}
