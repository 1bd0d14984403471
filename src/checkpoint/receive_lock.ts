/**
 * The lock under which checkpoints of one VM come from another store, whether the VM runs here or not.
 *
 * Whoever holds it owns every directory that starts with receptionPrefix, and incoming/: what the first are
 * found to hold was left by a reception that was cut short, and is removed; incoming/ is gone on with.
 */
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { CkptError } from '../errors.js';
import { type FileLock, lockFile } from '../native.js';
import { attempt, namesIn } from './files.js';
import { receptionPrefix } from './names.js';
import type { Store } from './store.js';

const pollMs = 100;

async function removeLeftovers(store: Store, vm: string): Promise<number> {
  const directory = store.checkpointsDirectory(vm);
  const names = (await namesIn(directory)).filter((name) => name.startsWith(receptionPrefix));
  for (const name of names) {
    const path = join(directory, name);
    await attempt(`cannot remove ${path}`, () => rm(path, { recursive: true, force: true }));
  }
  return names.length;
}

/**
 * Takes the lock; waits up to `limitMs` for another reception, which a link that has just been cut may have left
 * behind. BUSY after that.
 */
export async function lockReception(store: Store, vm: string, limitMs: number): Promise<FileLock> {
  for (const deadline = Date.now() + limitMs; ;) {
    const lock = lockFile(store.receptionLock(vm));
    if (lock !== undefined) {
      await removeLeftovers(store, vm).catch((error: unknown) => {
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
export async function cleanReceptions(store: Store, vm: string): Promise<number> {
  const names = await namesIn(store.checkpointsDirectory(vm));
  if (!names.some((name) => name.startsWith(receptionPrefix))) return 0;
  const lock = lockFile(store.receptionLock(vm));
  if (lock === undefined) return 0;
  try {
    return await removeLeftovers(store, vm);
  } finally {
    lock.unlock();
  }
}
