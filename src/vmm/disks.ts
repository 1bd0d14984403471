/**
 * The redo logs of a VM's disks: where they are, and what a start or a restore makes of them.
 *
 *   <vm>/disks/<id>/<n>.redo   n counts from 00000001; the oldest first, the last one takes the writes
 *   <vm>/disks.new/            the disks of a restore, until they replace disks/
 *   <vm>/disks.old/            the replaced disks, until the restore has succeeded
 *
 * A restore that a kill cuts short has happened once disks/ are its own, and else has not.
 *
 * Owner: the process that holds the VM's lock.
 */
import { mkdir, rename, rm } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { type Checkpoint, diskLayers } from '../checkpoint/checkpoints.js';
import {
  attempt,
  linkOrCopy,
  makePrivateDirectory,
  namesIn,
  pathExists,
  syncPath,
} from '../checkpoint/files.js';
import type { Store } from '../checkpoint/store.js';
import { createRedoLog, type NativeDiskConfig, type RedoLayer } from '../native.js';
import type { DiskConfig, VmConfig } from '../types.js';

const redoName = /^(\d{8})\.redo$/;

/** Path of the redo log after the newest of `directory`. */
export async function nextRedo(directory: string): Promise<string> {
  const newest = (await redoLogs(directory)).at(-1);
  const number = newest === undefined ? 1 : Number(redoName.exec(basename(newest))?.[1]) + 1;
  return join(directory, `${String(number).padStart(8, '0')}.redo`);
}

/** The redo logs of one disk, oldest first. */
export async function redoLogs(directory: string): Promise<string[]> {
  return (await namesIn(directory))
    .filter((name) => redoName.test(name))
    .map((name) => join(directory, name));
}

/** How a disk is opened when `redo` are its logs: a persistent one without logs is written directly. */
function access(disk: DiskConfig, redo: readonly string[]): NativeDiskConfig['access'] {
  if (disk.readonly) return 'readonly';
  return disk.mode === 'persistent' && redo.length === 0 ? 'direct' : 'redo';
}

/** The disks of a VM that boots: the logs it has, and a first one for a new non-persistent disk. */
export async function bootDisks(store: Store, config: VmConfig): Promise<NativeDiskConfig[]> {
  await settleReplacement(store.vmDirectory(config.name));
  const disks: NativeDiskConfig[] = [];
  for (const disk of config.disks) {
    const directory = store.diskDirectory(config.name, disk.id);
    await makePrivateDirectory(directory);
    const redo = await redoLogs(directory);
    if (redo.length === 0 && disk.mode === 'nonpersistent' && !disk.readonly) {
      const path = await nextRedo(directory);
      await createRedoLog({ parent: disk.path, redo: [] }, path);
      redo.push(path);
    }
    disks.push({
      id: disk.id,
      parent: disk.path,
      redo: redo.map((path) => ({ path })),
      access: access(disk, redo),
    });
  }
  return disks;
}

/**
 * The disks of a VM that is restored: the checkpoint's sealed logs under a fresh one. They replace the
 * disks of an earlier run of the VM: restoring in place goes back to the checkpoint. The caller ends
 * that with keepRestoredDisks() or, when the restore fails, with returnReplacedDisks().
 */
export async function restoreDisks(
  store: Store,
  config: VmConfig,
  checkpoint: Checkpoint,
): Promise<NativeDiskConfig[]> {
  const vmDirectory = store.vmDirectory(config.name);
  await settleReplacement(vmDirectory);
  const { current, fresh, old } = places(vmDirectory);
  if (config.disks.length === 0 && !(await pathExists(current))) return [];
  const disks: NativeDiskConfig[] = [];
  for (const disk of config.disks) {
    const layers = diskLayers(checkpoint, disk.id);
    const directory = join(fresh, disk.id);
    await makePrivateDirectory(directory);
    const redo: RedoLayer[] = [];
    for (const sealed of layers.redo) {
      const path = join(directory, basename(sealed.path));
      await attempt(`cannot link ${sealed.path}`, () => linkOrCopy(sealed.path, path));
      redo.push({ ...sealed, path });
    }
    if (!disk.readonly) {
      const path = await nextRedo(directory);
      await createRedoLog({ ...layers, redo }, path);
      redo.push({ path });
    }
    const final = store.diskDirectory(config.name, disk.id);
    disks.push({
      ...layers,
      id: disk.id,
      redo: redo.map((layer) => ({ ...layer, path: join(final, basename(layer.path)) })),
      access: disk.readonly ? 'readonly' : 'redo',
    });
  }
  await attempt(`cannot replace the disks of VM ${config.name}`, async () => {
    await mkdir(fresh, { recursive: true });
    if (await pathExists(current)) await rename(current, old);
    await rename(fresh, current);
    await syncPath(vmDirectory);
  });
  return disks;
}

/** The restore has succeeded: the disks that it replaced go. */
export async function keepRestoredDisks(store: Store, vm: string): Promise<void> {
  await settleReplacement(store.vmDirectory(vm));
}

/** The restore has failed and its machine is closed: the disks that it replaced come back. */
export async function returnReplacedDisks(store: Store, vm: string): Promise<void> {
  const vmDirectory = store.vmDirectory(vm);
  const { current, fresh, old } = places(vmDirectory);
  await attempt(`cannot return the disks of VM ${vm}`, async () => {
    if (await pathExists(old)) await rename(current, fresh);
  });
  await settleReplacement(vmDirectory);
}

function places(vmDirectory: string): { current: string; fresh: string; old: string } {
  return {
    current: join(vmDirectory, 'disks'),
    fresh: join(vmDirectory, 'disks.new'),
    old: join(vmDirectory, 'disks.old'),
  };
}

/** Ends a replacement of the disks wherever it is: what is not in place now goes. */
async function settleReplacement(vmDirectory: string): Promise<void> {
  const { current, fresh, old } = places(vmDirectory);
  await attempt(`cannot replace ${current}`, async () => {
    if (!(await pathExists(current)) && (await pathExists(old))) await rename(old, current);
    await rm(fresh, { recursive: true, force: true });
    await rm(old, { recursive: true, force: true });
  });
}
