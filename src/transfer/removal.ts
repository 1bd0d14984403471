/** Removing what a store has for whoever keeps copies there. */
import { listCheckpoints } from '../checkpoint/checkpoints.js';
import { lockReception } from '../checkpoint/receive_lock.js';
import type { Store } from '../checkpoint/store.js';
import { CkptError } from '../errors.js';
import { checkpointsBeingLoaded, removeUnlessLoaded } from '../vmm/loading.js';
import { IncomingDirectory } from './incoming.js';
import { forgetVm, lockLimitMs } from './reception.js';

/**
 * Removes the checkpoint that has this name and this id: never another one that has got the name meanwhile, nor a
 * damaged one. NOT_FOUND; BUSY while a VM loads it.
 */
export async function removeListed(
  store: Store,
  vm: string,
  name: string,
  id: string,
): Promise<void> {
  const entries = (await store.hasVm(vm)) ? await listCheckpoints(store, vm) : [];
  const entry = entries.find((one) => one.name === name && one.manifest?.id === id);
  if (!entry) {
    throw new CkptError('NOT_FOUND', `${store.root} has no checkpoint ${vm}@${name} of id ${id}`, {
      vm,
      name,
    });
  }
  await removeUnlessLoaded(store, entry, await checkpointsBeingLoaded(store));
}

/**
 * Removes what has come of checkpoints of a VM that are not published, and the VM if it has neither a checkpoint nor a
 * configuration. BUSY while a reception goes on.
 */
export async function forgetIncoming(store: Store, vm: string): Promise<void> {
  if (!(await store.hasVm(vm))) return;
  const lock = await lockReception(store, vm, lockLimitMs);
  try {
    await new IncomingDirectory(store.incomingDirectory(vm)).remove();
    await forgetVm(store, vm);
  } finally {
    lock.unlock();
  }
}
