/**
 * The lock under which the checkpoints of one VM are compacted, whether the VM runs or not.
 *
 * Whoever holds it owns every directory that starts with compactionPrefix: those found when it is taken were
 * left by a compaction that was cut short, and are removed.
 */
import { CkptError } from '../errors.js';
import { lockFile } from '../native.js';
import { cleanLeftovers, removeLeftovers } from './leftovers.js';
import { compactionPrefix } from './names.js';
import type { Store } from './store.js';

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
    await removeLeftovers(store, vm, compactionPrefix);
    return await work();
  } finally {
    await removeLeftovers(store, vm, compactionPrefix).finally(() => lock.unlock());
  }
}

/** Removes what compactions that were cut short have left, unless one is under way. How many there were. */
export function cleanCompactions(store: Store, vm: string): Promise<number> {
  return cleanLeftovers(store, vm, compactionPrefix, store.compactionLock(vm));
}
