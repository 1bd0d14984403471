/** Which checkpoints running VMs still load their memory from: these are not to be removed. */
import { CkptError } from '../errors.js';
import { type CheckpointEntry, removeCheckpoint } from '../checkpoint/checkpoints.js';
import type { Store } from '../checkpoint/store.js';
import { askStatus } from './client.js';

/** The ids of these checkpoints, each with the VM that loads it. */
export async function checkpointsBeingLoaded(store: Store): Promise<Map<string, string>> {
  const loaded = new Map<string, string>();
  for (const vm of await store.listVms()) {
    const status = await askStatus(store, vm);
    const restore = typeof status === 'object' ? status.restore : undefined;
    if (restore !== undefined && !restore.done) loaded.set(restore.id, vm);
  }
  return loaded;
}

/** Removes a checkpoint unless a VM still loads it: BUSY. */
export async function removeUnlessLoaded(
  store: Store,
  entry: CheckpointEntry,
  loaded: ReadonlyMap<string, string>,
): Promise<void> {
  const vm = loaded.get(entry.manifest?.id ?? '');
  if (vm !== undefined) {
    throw new CkptError(
      'BUSY',
      `VM ${vm} is still loading ${entry.vm}@${entry.name}; wait until its restore is complete`,
      { vm },
    );
  }
  await removeCheckpoint(store, entry);
}
