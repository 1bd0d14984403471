/**
 * The disks of a VM: what a start or a restore makes of them.
 *
 *   <vm>/disks/<id>/           the redo logs of a disk, the last one takes the writes; see disk_base.ts
 *   <vm>/disks.new/            the disks of a restore, until they replace disks/
 *   <vm>/disks.old/            the replaced disks, until the restore has succeeded
 *
 *   <vm>/disks/.arriving       these come from another host (arriving.ts): they have holes where nothing has come
 *
 * A restore that a kill cuts short has happened once disks/ are its own, and else has not. One whose disks are arriving
 * has not happened before all has come.
 *
 * Owner: the process that holds the VM's lock.
 */
import { mkdir, rename, rm } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { type Checkpoint, diskLayers } from '../checkpoint/checkpoints.js';
import { logNumber } from '../checkpoint/disk_names.js';
import {
  attempt,
  linkOnly,
  linkOrCopy,
  makePrivateDirectory,
  pathExists,
  syncPath,
  writeDurable,
} from '../checkpoint/files.js';
import type { Store } from '../checkpoint/store.js';
import {
  createRedoLog,
  type DiskLayers,
  fileIdentity,
  isSealedLog,
  type NativeDiskConfig,
  type RedoLayer,
} from '../native.js';
import type { DiskConfig, VmConfig } from '../types.js';
import { arrivingMark, cleanBase, layersOf, nextRedo, writeBase } from './disk_base.js';

/** How a disk is opened when `redo` are its logs: a persistent one without logs is written directly. */
function access(disk: DiskConfig, redo: readonly RedoLayer[]): NativeDiskConfig['access'] {
  if (disk.readonly) return 'readonly';
  return disk.mode === 'persistent' && redo.length === 0 ? 'direct' : 'redo';
}

/** The disks of a VM that boots: the logs it has, and a first one for a non-persistent disk without. */
export async function bootDisks(store: Store, config: VmConfig): Promise<NativeDiskConfig[]> {
  await settleReplacement(store.vmDirectory(config.name));
  const disks: NativeDiskConfig[] = [];
  for (const disk of config.disks) {
    const directory = store.diskDirectory(config.name, disk.id);
    await makePrivateDirectory(directory);
    await cleanBase(directory, disk.path);
    const found = await layersOf(directory, disk.path);
    const newest = found.redo.at(-1);
    const layers =
      newest === undefined
        ? await firstLayers(directory, disk, found)
        : isSealedLog(newest.path) && !disk.readonly
          ? await withFreshLog(directory, disk, found)
          : found;
    disks.push({ id: disk.id, ...layers, access: access(disk, layers.redo) });
  }
  return disks;
}

/** A log that takes the writes, over a newest one that was sealed by a commit or compaction without the VM. */
async function withFreshLog(
  directory: string,
  disk: DiskConfig,
  layers: DiskLayers,
): Promise<DiskLayers> {
  await createRedoLog(layers, await nextRedo(directory));
  return layersOf(directory, disk.path);
}

/** The layers of a disk that has no logs: only from here on its parent must stay as it is. */
async function firstLayers(
  directory: string,
  disk: DiskConfig,
  { parent }: DiskLayers,
): Promise<DiskLayers> {
  const path = await nextRedo(directory);
  const base = { parent, firstLog: logNumber(path) };
  if (disk.mode !== 'nonpersistent' || disk.readonly) {
    await writeBase(directory, base);
    return { parent, redo: [] };
  }
  await writeBase(directory, { ...base, parentIdentity: fileIdentity(parent) });
  await createRedoLog({ parent, redo: [] }, path);
  return layersOf(directory, disk.path);
}

/**
 * The disks of a VM that is restored: the checkpoint's sealed logs under a fresh one. They replace the
 * disks of an earlier run of the VM: restoring in place goes back to the checkpoint. The caller ends
 * that with keepRestoredDisks() or, when the restore fails, with returnReplacedDisks(). `arriving`: not all of the
 * checkpoint is there yet.
 */
export async function restoreDisks(
  store: Store,
  config: VmConfig,
  checkpoint: Checkpoint,
  { arriving }: { arriving?: unknown } = {},
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
    const adopt = async (file: string): Promise<string> => {
      const path = join(directory, basename(file));
      const link = arriving !== undefined ? linkOnly : linkOrCopy;
      await attempt(`cannot link ${file}`, () => link(file, path));
      return path;
    };
    const redo: RedoLayer[] = [];
    for (const sealed of layers.redo) redo.push({ ...sealed, path: await adopt(sealed.path) });
    // The parent is the checkpoint's own, or the one that it refers to.
    const own = layers.parent.startsWith(`${checkpoint.directory}/`);
    const parent = own ? await adopt(layers.parent) : layers.parent;
    const parentIdentity = own ? fileIdentity(parent) : layers.parentIdentity;
    const { committed } = layers;
    const known = {
      parent,
      ...(parentIdentity === undefined ? {} : { parentIdentity }),
      ...(committed === undefined ? {} : { committed }),
    };
    const [first] = redo;
    await writeBase(directory, {
      ...known,
      firstLog: first === undefined ? 1 : logNumber(first.path),
    });
    if (!disk.readonly) {
      const path = await nextRedo(directory);
      await createRedoLog({ ...known, redo }, path);
      redo.push({ path });
    }
    const final = store.diskDirectory(config.name, disk.id);
    const settled = (path: string): string => join(final, basename(path));
    disks.push({
      ...known,
      parent: own ? settled(parent) : parent,
      id: disk.id,
      redo: redo.map((layer) => ({ ...layer, path: settled(layer.path) })),
      access: disk.readonly ? 'readonly' : 'redo',
    });
  }
  await attempt(`cannot replace the disks of VM ${config.name}`, async () => {
    await mkdir(fresh, { recursive: true });
    if (arriving !== undefined) await writeDurable(join(fresh, arrivingMark), '');
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

/** All that was arriving of the disks is there, durably. */
export async function settleArrivedDisks(store: Store, vm: string): Promise<void> {
  const { current } = places(store.vmDirectory(vm));
  await attempt(`cannot keep the disks of VM ${vm}`, async () => {
    await rm(join(current, arrivingMark), { force: true });
    if (await pathExists(current)) await syncPath(current);
  });
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
    if (await pathExists(join(current, arrivingMark))) {
      await rm(fresh, { recursive: true, force: true });
      await rename(current, fresh);
    }
    if (!(await pathExists(current)) && (await pathExists(old))) await rename(old, current);
    await rm(fresh, { recursive: true, force: true });
    await rm(old, { recursive: true, force: true });
  });
}
