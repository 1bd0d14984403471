/** Whether the layers of a disk are whole, and what can be done if not. */
import { rename, rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import { attempt, syncPath } from '../checkpoint/files.js';
import type { Store } from '../checkpoint/store.js';
import { CkptError } from '../errors.js';
import {
  type Damage,
  type DiskLayers,
  mapDisk,
  type RedoRepair,
  repairRedoLog,
  verifyRedoLog,
} from '../native.js';
import type { DiskConfig } from '../types.js';
import { layersOf } from './disk_base.js';

/** Reads every byte of the logs, and looks whether they and the parent belong together. BUSY. */
export async function checkDisk(layers: DiskLayers): Promise<Damage[]> {
  const damage = (
    await Promise.all(layers.redo.map(({ path, bytes }) => verifyRedoLog(path, bytes)))
  ).flat();
  if (damage.length > 0) return damage;
  try {
    await mapDisk(layers);
  } catch (error) {
    if (!(error instanceof CkptError) || error.code !== 'DAMAGED') throw error;
    damage.push({ file: layers.parent, what: error.message });
  }
  return damage;
}

/**
 * Replaces damaged logs of a VM's disk by what comes before the first record of each that is not whole. A
 * checkpoint that has links to them keeps them as they are. DAMAGED when a header is. For the holder of the
 * VM's lock.
 */
export async function repairDisk(
  store: Store,
  vm: string,
  disk: DiskConfig,
): Promise<({ file: string } & RedoRepair)[]> {
  const repaired = [];
  const { redo } = await layersOf(store.diskDirectory(vm, disk.id), disk.path);
  for (const { path } of redo) {
    if ((await verifyRedoLog(path)).length === 0) continue;
    const copy = `${path}.repaired`;
    await rm(copy, { force: true }); // of a repair that was cut short
    const repair = await repairRedoLog(path, copy);
    await attempt(`cannot replace ${path}`, async () => {
      await rename(copy, path);
      await syncPath(dirname(path));
    });
    repaired.push({ file: path, ...repair });
  }
  return repaired;
}
