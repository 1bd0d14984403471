/**
 * The lock under which checkpoints of one VM come from another store, whether the VM runs here or not.
 *
 * Whoever holds it owns every directory that starts with receptionPrefix, and incoming/: what the first are
 * found to hold was left by a reception that was cut short, and is removed; incoming/ is gone on with.
 */
import { setTimeout } from 'node:timers/promises';
import { CkptError } from '../errors.js';
import { type FileLock, lockFile } from '../native.js';
import { cleanLeftovers, removeLeftovers } from './leftovers.js';
import { receptionPrefix } from './names.js';
import type { Store } from './store.js';

const pollMs = 100;

/**
 * Takes the lock; waits up to `limitMs` for another reception, which a link that has just been cut may have left
 * behind. BUSY after that.
 */
export async function lockReception(store: Store, vm: string, limitMs: number): Promise<FileLock> {
  for (const deadline = Date.now() + limitMs; ;) {
    const lock = lockFile(store.receptionLock(vm));
    if (lock !== undefined) {
      await removeLeftovers(store, vm, receptionPrefix).catch((error: unknown) => {
        lock.unlock();
        throw error;
      });
      return lock;
    }
    if (Date.now() >= deadline) {
      throw new CkptError(
        'BUSY',
        `checkpoints of VM ${vm} are being received from elsewhere; wait for that to end`,
        { vm },
      );
    }
    await setTimeout(pollMs);
  }
}

/** Removes what receptions that were cut short have left of checkpoints, unless one is under way. */
export function cleanReceptions(store: Store, vm: string): Promise<number> {
  return cleanLeftovers(store, vm, receptionPrefix, store.receptionLock(vm));
}
