/**
 * The lock under which the checkpoints of one VM are compacted, whether the VM runs or not.
 *
 * Whoever holds it owns every directory that starts with compactionPrefix: those found when it is taken were
 * left by a compaction that was cut short, and are removed.
 */
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { CkptError } from '../errors.js';
import { lockFile } from '../native.js';
import { attempt, namesIn } from './files.js';
import { compactionPrefix } from './names.js';
import type { Store } from './store.js';

async function removeLeftovers(store: Store, vm: string): Promise<number> {
  const directory = store.checkpointsDirectory(vm);
  const names = (await namesIn(directory)).filter((name) => name.startsWith(compactionPrefix));
  for (const name of names) {
    const path = join(directory, name);
    await attempt(`cannot remove ${path}`, () => rm(path, { recursive: true, force: true }));
  }
  return names.length;
}

/** Runs `work` under the lock. BUSY when another compaction of the VM is under way. */
export async function withCompactionLock<T>(
  store: Store,
  vm: string,
  work: () => Promise<T>,
): Promise<T> {
  await store.needVm(vm);
  const lock = lockFile(store.compactionLock(vm));
  if (lock === undefined) {
    throw new CkptError('BUSY', `VM ${vm} is being compacted already; wait for that to end`, {
      vm,
    });
  }
  try {
    await removeLeftovers(store, vm);
    return await work();
  } finally {
    await removeLeftovers(store, vm).finally(() => lock.unlock());
  }
}

/** Removes what compactions that were cut short have left, unless one is under way. How many there were. */
export async function cleanCompactions(store: Store, vm: string): Promise<number> {
  const names = await namesIn(store.checkpointsDirectory(vm));
  if (!names.some((name) => name.startsWith(compactionPrefix))) return 0;
  const lock = lockFile(store.compactionLock(vm));
  if (lock === undefined) return 0;
  try {
    return await removeLeftovers(store, vm);
  } finally {
    lock.unlock();
  }
}
