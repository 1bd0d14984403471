/**
 * A VM process's claim on its VM: the lock, and the VM's directory when it is new.
 */
import type { Store } from '../checkpoint/store.js';
import { CkptError } from '../errors.js';
import { type FileLock, lockFile } from '../native.js';

/** A VM's claim on its name: the lock, and whether the name is new. */
export interface Claim {
  lock: FileLock;
  isNew: boolean;
}

/**
 * Claims a new name. EXISTS when it is taken. A name whose VM was cut short before it had a configuration or
 * a checkpoint is free: whoever gets its lock has it, and what it left is removed.
 */
export async function claimNew(store: Store, name: string): Promise<Claim> {
  let taken: CkptError | undefined;
  try {
    await store.createVm(name);
  } catch (error) {
    if (!(error instanceof CkptError && error.code === 'EXISTS')) throw error;
    if (!(await store.isUnfinished(name))) throw error;
    taken = error;
  }
  const lock = lockFile(store.lockFile(name));
  if (lock === undefined) throw taken ?? busy(name);
  try {
    // With the lock it can be told from a VM that another process is just making.
    if (taken !== undefined) {
      if (!(await store.isUnfinished(name))) throw taken;
      await store.clearVm(name);
    }
    return { lock, isNew: true };
  } catch (error) {
    lock.unlock();
    throw error;
  }
}

/** Claims a VM that exists. BUSY when its process runs. */
export function claimExisting(store: Store, name: string): Claim {
  const lock = lockFile(store.lockFile(name));
  if (!lock) throw busy(name);
  return { lock, isNew: false };
}

function busy(name: string): CkptError {
  return new CkptError(
    'BUSY',
    `VM ${name} is running; stop it first (ckptfs stop ${name}), or give another --name`,
    { vm: name },
  );
}

/** Runs `body`; when it fails the claim is given back, and a new VM's directory removed. */
export async function releasingOnFailure<T>(
  store: Store,
  name: string,
  claim: Claim,
  body: () => Promise<T>,
): Promise<T> {
  try {
    return await body();
  } catch (error) {
    if (claim.isNew) await store.abandonVm(name);
    claim.lock.unlock();
    throw error;
  }
}
