/**
 * A VM's disk as it is now, for those who change it: in the process of the VM, which has a machine, or in any
 * other one that has claimed the VM, since no process runs it.
 */
import type { Store } from '../checkpoint/store.js';
import { CkptError } from '../errors.js';
import type { NativeMachine } from '../native.js';
import type { DiskConfig } from '../types.js';
import { claimExisting } from './claim.js';
import { askStatus, VmClient } from './client.js';
import { storedConfig } from './config.js';

export interface DiskPlace {
  store: Store;
  vm: string;
  disk: DiskConfig;
  /** Of the VM, if it runs. */
  machine?: Pick<NativeMachine, 'freezeDisk' | 'commitDisk' | 'surveyDisk' | 'compactDisk'>;
}

/** Runs `work` on the disk of a VM that no process runs, and that none can run meanwhile. BUSY, NOT_FOUND. */
export async function withStoppedDisk<T>(
  store: Store,
  vm: string,
  id: string,
  work: (place: DiskPlace) => Promise<T>,
): Promise<T> {
  await store.needVm(vm);
  const { lock } = claimExisting(store, vm);
  try {
    const disk = (await storedConfig(store, vm)).disks.find((candidate) => candidate.id === id);
    if (!disk) throw new CkptError('NOT_FOUND', `VM ${vm} has no disk ${id}`, { disk: id });
    return await work({ store, vm, disk });
  } finally {
    lock.unlock();
  }
}

/** Has a VM's disk worked on by the process of the VM, or by this one if there is none. */
export async function withDisk<T>(
  store: Store,
  vm: string,
  id: string,
  running: (client: VmClient) => Promise<T>,
  stopped: (place: DiskPlace) => Promise<T>,
): Promise<T> {
  await store.needVm(vm);
  if ((await askStatus(store, vm)) === undefined) return withStoppedDisk(store, vm, id, stopped);
  return running(await VmClient.connect(vm, store.controlSocket(vm)));
}
