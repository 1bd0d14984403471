/** The VMs of a store as commands show them: asked of the running ones, read from files for the others. */
import { setTimeout } from 'node:timers/promises';
import type { Store } from '../checkpoint/store.js';
import { CkptError } from '../errors.js';
import type { FileLock } from '../native.js';
import type { VmStatus } from '../types.js';

/** A VM in a listing. `stopped`: no process has it; `silent`: its process does not answer. */
export interface VmSummary {
  vm: string;
  state: VmStatus['state'] | 'stopped' | 'silent';
  pid?: number;
  memoryBytes?: number;
  cpus?: number;
  checkpoints: number;
  status?: VmStatus | undefined;
}

export async function summarizeVm(store: Store, vm: string): Promise<VmSummary> {
  const { askStatus } = await import('../vmm/client.js');
  const { listCheckpointNames } = await import('../checkpoint/checkpoints.js');
  const checkpoints = (await listCheckpointNames(store, vm)).length;
  const status = await askStatus(store, vm);
  if (status === 'silent') return { vm, state: 'silent', checkpoints };
  if (status !== undefined) {
    const { state, pid, memoryBytes, cpus } = status;
    return { vm, state, pid, memoryBytes, cpus, checkpoints, status };
  }
  return { vm, state: 'stopped', ...(await storedSize(store, vm)), checkpoints };
}

/** Memory and CPUs of a stopped VM from its config.json, as far as that can be read. */
async function storedSize(
  store: Store,
  vm: string,
): Promise<Pick<VmSummary, 'memoryBytes' | 'cpus'>> {
  const config = await store.readConfig(vm).catch(() => undefined);
  if (typeof config !== 'object' || config === null) return {};
  const { memoryBytes, cpus } = config as Record<string, unknown>;
  return {
    ...(typeof memoryBytes === 'number' ? { memoryBytes } : {}),
    ...(typeof cpus === 'number' ? { cpus } : {}),
  };
}

/** How long a VM process may take to close its disks and end after it has agreed to stop. */
const releaseMs = 30_000;
const pollMs = 20;

/** Takes the VM's lock; BUSY when a process has the VM. */
export async function lockVm(store: Store, vm: string): Promise<FileLock> {
  const { lockFile } = await import('../native.js');
  const lock = lockFile(store.lockFile(vm));
  if (lock !== undefined) return lock;
  throw new CkptError('BUSY', `VM ${vm} is running; stop it first (ckptfs stop ${vm})`, { vm });
}

/** Waits until no process holds the VM. BUSY after half a minute. */
export async function waitUntilReleased(store: Store, vm: string): Promise<void> {
  const deadline = Date.now() + releaseMs;
  for (;;) {
    try {
      (await lockVm(store, vm)).unlock();
      return;
    } catch (error) {
      const isBusy = error instanceof CkptError && error.code === 'BUSY';
      if (!isBusy || Date.now() > deadline) throw error;
    }
    await setTimeout(pollMs);
  }
}
