/**
 * A disk as a person refers to it: `vm` or `vm:disk`, `checkpoint` or `checkpoint:disk`, or a raw file. What may
 * be left out is the disk of a machine that has one only. A path has a slash in it, or is no VM's name.
 */
import { resolve } from 'node:path';
import { diskLayers, findCheckpoint, openCheckpoint } from '../checkpoint/checkpoints.js';
import { pathExists } from '../checkpoint/files.js';
import { isName } from '../checkpoint/names.js';
import type { Store } from '../checkpoint/store.js';
import { CkptError } from '../errors.js';
import type { DiskLayers } from '../native.js';
import type { DiskConfig } from '../types.js';
import { storedConfig } from './config.js';
import { layersOf } from './disk_base.js';

export interface FoundDisk {
  /** How messages call it. */
  name: string;
  layers: DiskLayers;
  /** Of a VM's disk as it is now. */
  vm?: string;
  disk?: DiskConfig;
}

/** Finds a disk; `store` is asked for only where it is needed. NOT_FOUND, USAGE, DAMAGED. */
export async function findDisk(
  reference: string,
  openStore: () => Promise<Store>,
): Promise<FoundDisk> {
  const [machine = '', id] = reference.split(/:(.*)/s);
  if (reference.includes('/')) return file(reference);
  if (machine.includes('@')) return diskOfCheckpoint(await openStore(), machine, id);
  const store = isName(machine) ? await openStore().catch(() => undefined) : undefined;
  if (store && (await store.hasVm(machine))) return diskOfVm(store, machine, id);
  if (await pathExists(reference)) return file(reference);
  throw new CkptError(
    'NOT_FOUND',
    `there is no VM and no file ${reference}; give VM, VM:DISK, VM@CKPT, VM@CKPT:DISK or a file`,
    { reference },
  );
}

function file(path: string): FoundDisk {
  return { name: path, layers: { parent: resolve(path), redo: [] } };
}

async function diskOfVm(store: Store, vm: string, id: string | undefined): Promise<FoundDisk> {
  const { disks } = await storedConfig(store, vm);
  const disk = choose(`VM ${vm}`, disks, id);
  const layers = await layersOf(store.diskDirectory(vm, disk.id), disk.path);
  return { name: `${vm}:${disk.id}`, layers, vm, disk };
}

async function diskOfCheckpoint(
  store: Store,
  reference: string,
  id: string | undefined,
): Promise<FoundDisk> {
  const entry = await findCheckpoint(store, reference);
  const checkpoint = await openCheckpoint(entry.directory);
  const name = `${entry.vm}@${entry.name}`;
  const disk = choose(`checkpoint ${name}`, checkpoint.manifest.disks, id);
  return { name: `${name}:${disk.id}`, layers: diskLayers(checkpoint, disk.id) };
}

function choose<T extends { id: string }>(what: string, disks: readonly T[], id?: string): T {
  const names = disks.map((disk) => disk.id).join(', ');
  const [only, second] = id === undefined ? disks : disks.filter((disk) => disk.id === id);
  if (only === undefined) {
    throw new CkptError(
      'NOT_FOUND',
      id === undefined
        ? `${what} has no disks`
        : `${what} has no disk ${id}; it has ${names || 'none'}`,
      { disk: id },
    );
  }
  if (second !== undefined) {
    throw new CkptError('USAGE', `${what} has several disks; add one as :DISK, of ${names}`);
  }
  return only;
}
