/**
 * Published checkpoints of a store: opening, listing, looking up, removing.
 *
 * A directory under checkpoints/ is a checkpoint once it has its name there (publish.ts) and is then never
 * changed, so all of this may run in any process at any time. A checkpoint is removed by renaming it to a
 * temporary name first: it is there whole or not at all.
 */
import { createHash } from 'node:crypto';
import { rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import createDebug from 'debug';
import { CkptError, errnoOf, systemError, toCkptError } from '../errors.js';
import type { DiskLayers } from '../native.js';
import { attempt, namesIn, readSmallFile, readTail, syncPath, walkTree } from './files.js';
import { deviceStateFile, type Manifest, readManifest } from './manifest.js';
import { expectedParentIn, parentOf } from './parent.js';
import { isName, newId, parseReference, temporaryPrefix, timeName } from './names.js';
import type { Store } from './store.js';

const debug = createDebug('ckptfs:store');
/** Registers and device states of a VM: some KiB a hart. */
const maxDeviceStateBytes = 64 << 20;

/** A checkpoint that the store lists; `damage` says why its manifest cannot be read. */
export interface CheckpointEntry {
  vm: string;
  /** Name of its directory. */
  name: string;
  directory: string;
  createdAt: Date;
  manifest?: Manifest;
  damage?: CkptError;
}

/** A checkpoint whose manifest, sizes and small files have been checked. */
export interface Checkpoint {
  directory: string;
  manifest: Manifest;
  /** The device states, as saved. */
  deviceState: string;
}

/**
 * Runs `work` on a checkpoint directory, and once more when it failed (`failed` says so of its result, or it
 * threw) while a compaction put another directory of the same contents in its place.
 */
export async function steadily<T>(
  directory: string,
  work: () => Promise<T>,
  failed: (result: T) => boolean = () => false,
): Promise<T> {
  const inode = async () => (await stat(directory).catch(() => undefined))?.ino;
  const before = await inode();
  const replaced = async () => before !== undefined && ![before, undefined].includes(await inode());
  try {
    const result = await work();
    if (!failed(result) || !(await replaced())) return result;
  } catch (error) {
    if (!(await replaced())) throw error;
  }
  return work();
}

/**
 * Opens a checkpoint directory, fail-closed: the manifest, the presence and size of every file, the contents of
 * the device states, and that memory.map ends with the checksum that it was published with, are checked before
 * anything is used. The addon checks the contents of memory.map against that checksum whenever it opens one, and those
 * of segments and redo logs block by block whenever they are read. NOT_FOUND, DAMAGED, UNSUPPORTED.
 */
export function openCheckpoint(directory: string): Promise<Checkpoint> {
  return steadily(directory, () => readCheckpoint(directory));
}

async function readCheckpoint(directory: string): Promise<Checkpoint> {
  const manifest = await readManifest(directory);
  const tailed = manifest.files.filter(({ tail }) => tail !== undefined);
  const where = (path: string): string => join(directory, path);
  // At once, for a restore waits for it; but what is missing or too short is told as such.
  const reads = Promise.all([
    readSmallFile(where(deviceStateFile), maxDeviceStateBytes),
    ...tailed.map(({ path }) => attempt(`cannot read ${path}`, () => readTail(where(path)))),
  ]);
  reads.catch(() => undefined);
  const tree = await walkTree(directory);
  for (const { path, bytes } of manifest.files) {
    const found = tree.files.get(path);
    if (found === undefined) throw damaged(where(path), 'it is missing');
    if (found !== bytes) {
      throw damaged(where(path), `it has ${found} bytes instead of ${bytes}`);
    }
  }
  const [state, ...tails] = await reads;
  for (const [i, { path, tail }] of tailed.entries()) {
    if (tails[i] !== tail) throw damaged(where(path), 'it is not the one that was published');
  }
  // Hashed from the very bytes that are used.
  const expected = manifest.files.find(({ path }) => path === deviceStateFile)?.sha256;
  if (createHash('sha256').update(state).digest('hex') !== expected) {
    throw damaged(where(deviceStateFile), 'its checksum differs');
  }
  return { directory, manifest, deviceState: state.toString('utf8') };
}

/** A disk of a checkpoint as the addon opens it: read-only, the parent checked against what was recorded. */
export function diskLayers(
  checkpoint: Pick<Checkpoint, 'directory' | 'manifest'>,
  id: string,
): DiskLayers {
  const disk = checkpoint.manifest.disks.find((candidate) => candidate.id === id);
  if (disk === undefined) {
    throw new CkptError('NOT_FOUND', `checkpoint ${checkpoint.directory} has no disk ${id}`, {
      disk: id,
    });
  }
  return {
    parent: parentOf(checkpoint.directory, disk),
    parentIdentity: expectedParentIn(checkpoint.directory, disk),
    ...(disk.committed === undefined ? {} : { committed: disk.committed }),
    redo: disk.redo.map((path) => ({
      path: join(checkpoint.directory, path),
      bytes: checkpoint.manifest.files.find((file) => file.path === path)?.bytes ?? 0,
    })),
  };
}

function damaged(file: string, what: string): CkptError {
  return new CkptError(
    'DAMAGED',
    `${file} is damaged (${what}); restore it from a backup or remove the checkpoint`,
    { file },
  );
}

/** Reads one directory of checkpoints/ into its entry; undefined when it has just been removed. */
async function readEntry(
  store: Store,
  vm: string,
  name: string,
): Promise<CheckpointEntry | undefined> {
  const directory = store.checkpointDirectory(vm, name);
  try {
    const manifest = await readManifest(directory);
    return { vm, name, directory, createdAt: new Date(manifest.createdAt), manifest };
  } catch (error) {
    try {
      const { mtime } = await stat(directory);
      return { vm, name, directory, createdAt: mtime, damage: toCkptError(error) };
    } catch (gone) {
      if (errnoOf(gone) === 'ENOENT') return undefined;
      throw systemError(gone, `cannot look at ${directory}`);
    }
  }
}

/** The names of a VM's checkpoints, sorted, without a look inside. */
export async function listCheckpointNames(store: Store, vm: string): Promise<string[]> {
  return (await namesIn(store.checkpointsDirectory(vm))).filter(isName);
}

/** A name for a checkpoint that was given none: its time, with a number when that second has one. */
export async function freeTimeName(
  store: Store,
  vm: string,
  time: Date,
  prefix = '',
): Promise<string> {
  const taken = new Set(await listCheckpointNames(store, vm));
  const base = `${prefix}${timeName(time)}`;
  for (let number = 1; ; number++) {
    const name = number === 1 ? base : `${base}-${number}`;
    if (!taken.has(name)) return name;
  }
}

/** The checkpoints of a VM, oldest first (by their time, then by name); none when it has none. */
export async function listCheckpoints(store: Store, vm: string): Promise<CheckpointEntry[]> {
  const entries: CheckpointEntry[] = [];
  for (const name of await listCheckpointNames(store, vm)) {
    const entry = await readEntry(store, vm, name);
    if (entry !== undefined) entries.push(entry);
  }
  return entries.sort(
    (a, b) => a.createdAt.getTime() - b.createdAt.getTime() || (a.name < b.name ? -1 : 1),
  );
}

/** The checkpoints of every VM, VM by VM. */
export async function listAllCheckpoints(store: Store): Promise<CheckpointEntry[]> {
  const entries: CheckpointEntry[] = [];
  for (const vm of await store.listVms()) entries.push(...(await listCheckpoints(store, vm)));
  return entries;
}

/** The newest checkpoint of a VM whose manifest can be read. */
export async function latestCheckpoint(
  store: Store,
  vm: string,
): Promise<CheckpointEntry | undefined> {
  return (await listCheckpoints(store, vm)).findLast((entry) => entry.manifest !== undefined);
}

/**
 * Finds the one checkpoint that `text` names (see parseReference). NOT_FOUND when there is none, USAGE
 * when a prefix fits several; both list candidates. The entry may be damaged: openCheckpoint() tells.
 */
export async function findCheckpoint(store: Store, text: string): Promise<CheckpointEntry> {
  const reference = parseReference(text);
  if (reference.kind === 'id') return findById(store, reference.prefix);
  await store.needVm(reference.vm);
  const found =
    reference.kind === 'latest'
      ? await latestCheckpoint(store, reference.vm)
      : await readEntry(store, reference.vm, reference.name);
  if (found !== undefined) return found;
  const names = await listCheckpointNames(store, reference.vm);
  const hint = names.length > 0 ? `there are: ${names.slice(-10).join(', ')}` : 'it has none';
  throw new CkptError('NOT_FOUND', `no checkpoint ${text}; VM ${reference.vm}: ${hint}`, {
    reference: text,
    candidates: names,
  });
}

/** The checkpoints of that id, those of `vm` first. Copies of a directory share an id. */
export async function checkpointsById(
  store: Store,
  id: string,
  vm: string,
): Promise<CheckpointEntry[]> {
  const others = (await store.listVms()).filter((other) => other !== vm);
  const found: CheckpointEntry[] = [];
  for (const name of [vm, ...others]) {
    const entries = await listCheckpoints(store, name);
    found.push(...entries.filter((entry) => entry.manifest?.id === id));
    if (found.length > 0) break;
  }
  return found;
}

async function findById(store: Store, prefix: string): Promise<CheckpointEntry> {
  const entries = await listAllCheckpoints(store);
  const [first, ...others] = entries.filter((entry) => entry.manifest?.id.startsWith(prefix));
  if (first === undefined) {
    throw new CkptError(
      'NOT_FOUND',
      `no checkpoint whose id starts with ${prefix}; list them with "ckptfs checkpoints"`,
      { reference: prefix },
    );
  }
  if (others.length === 0) return first;
  const candidates = [first, ...others].map((entry) => `${entry.vm}@${entry.name}`);
  throw new CkptError(
    'USAGE',
    `${prefix} is the start of ${candidates.length} ids (${candidates.slice(0, 10).join(', ')}); give more digits`,
    { reference: prefix, candidates },
  );
}

/** Removes a checkpoint. Processes that have its files open keep them until they close them. */
export async function removeCheckpoint(store: Store, entry: CheckpointEntry): Promise<void> {
  const parent = store.checkpointsDirectory(entry.vm);
  const temporary = join(parent, `${temporaryPrefix}${newId()}`);
  await attempt(`cannot remove checkpoint ${entry.vm}@${entry.name}`, async () => {
    await rename(entry.directory, temporary);
    await syncPath(parent);
    // A VM that starts now clears the leftovers of its directory too: `force` lets both go through.
    await rm(temporary, { recursive: true, force: true, maxRetries: 3 });
    if (entry.manifest) await rm(store.orderFile(entry.vm, entry.manifest.id), { force: true });
  });
  debug('removed checkpoint %s@%s', entry.vm, entry.name);
}

/** The size of a checkpoint on disk as its manifest gives it, the manifest itself not counted. */
export function checkpointBytes(manifest: Manifest): number {
  return manifest.files.reduce((sum, file) => sum + file.bytes, 0);
}
