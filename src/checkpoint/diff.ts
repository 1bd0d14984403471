/**
 * What differs between two checkpoints: their memories block by block, and the layers of their disks.
 *
 * Disks are compared by layer: a redo log is the same one if it has the same id and the same size, whether it is
 * a hard link or a copy. Layers that only one of the two has make the difference; what is in them is not read.
 */
import { open } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { diffMemoryImages, type MemoryDiff, type TaskHooks } from '../native.js';
import { type Checkpoint, openCheckpoint } from './checkpoints.js';
import { attempt } from './files.js';
import type { ManifestDisk } from './manifest.js';

/** Where a redo log's id is in its header (docs/disk-format.md). */
const idOffset = 32;
const idBytes = 16;

/** Redo logs that one checkpoint has of a disk and the other one has not. */
export interface Layer {
  file: string;
  bytes: number;
}

export interface DiskDiff {
  id: string;
  /** `changed`: other layers or another parent; `removed`, `added`: only the first or second one has it. */
  state: 'same' | 'changed' | 'added' | 'removed';
  /** Whether the parents are one and the same, as far as path, size and time tell. */
  sameParent: boolean;
  onlyBefore: Layer[];
  onlyAfter: Layer[];
}

export interface CheckpointDiff {
  memory: MemoryDiff;
  disks: DiskDiff[];
}

/** Compares two checkpoint directories. USAGE when their memories are not of one size; progress in bytes. */
export async function diffCheckpoints(
  before: string,
  after: string,
  hooks: TaskHooks = {},
): Promise<CheckpointDiff> {
  const [one, other] = [await openCheckpoint(before), await openCheckpoint(after)];
  const memory = await diffMemoryImages(before, after, hooks);
  const ids = new Set([...one.manifest.disks, ...other.manifest.disks].map(({ id }) => id));
  const disks: DiskDiff[] = [];
  for (const id of ids) disks.push(await diffDisk(id, one, other));
  return { memory, disks };
}

async function diffDisk(id: string, one: Checkpoint, other: Checkpoint): Promise<DiskDiff> {
  const [before, after] = [one, other].map(({ manifest }) =>
    manifest.disks.find((disk) => disk.id === id),
  );
  const [oldLayers, newLayers] = [await layersOf(one, before), await layersOf(other, after)];
  const only = (layers: Map<string, Layer>, others: Map<string, Layer>) =>
    [...layers].filter(([key]) => !others.has(key)).map(([, layer]) => layer);
  const sameParent = before !== undefined && after !== undefined && isSameParent(before, after);
  const [onlyBefore, onlyAfter] = [only(oldLayers, newLayers), only(newLayers, oldLayers)];
  const isSame = sameParent && onlyBefore.length + onlyAfter.length === 0;
  const state = !before ? 'added' : !after ? 'removed' : isSame ? 'same' : 'changed';
  return { id, state, sameParent, onlyBefore, onlyAfter };
}

function isSameParent(one: ManifestDisk, other: ManifestDisk): boolean {
  const [a, b] = [one.parentIdentity, other.parentIdentity];
  return one.parent === other.parent && a.bytes === b.bytes && a.mtimeNs === b.mtimeNs;
}

/** The redo logs of a disk by what makes each of them unique. */
async function layersOf(
  { directory, manifest }: Checkpoint,
  disk: ManifestDisk | undefined,
): Promise<Map<string, Layer>> {
  const layers = new Map<string, Layer>();
  for (const path of disk?.redo ?? []) {
    const bytes = manifest.files.find((file) => file.path === path)?.bytes ?? 0;
    const id = await redoId(join(directory, path));
    layers.set(`${id}:${bytes}`, { file: basename(path), bytes });
  }
  return layers;
}

async function redoId(path: string): Promise<string> {
  return attempt(`cannot read ${path}`, async () => {
    const file = await open(path, 'r');
    try {
      const { buffer } = await file.read(Buffer.alloc(idBytes), 0, idBytes, idOffset);
      return buffer.toString('hex');
    } finally {
      await file.close();
    }
  });
}
