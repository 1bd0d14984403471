/** Checkpoints as they are told of over a connection. */
import {
  type CheckpointEntry,
  checkpointBytes,
  listAllCheckpoints,
  listCheckpoints,
} from '../checkpoint/checkpoints.js';
import type { Store } from '../checkpoint/store.js';
import type { ListedCheckpoint } from './messages.js';

/** The checkpoints of one VM or of all; a VM that the store does not have has none. */
export async function listStore(store: Store, vm?: string): Promise<ListedCheckpoint[]> {
  if (vm !== undefined && !(await store.hasVm(vm))) return [];
  const entries = await (vm === undefined ? listAllCheckpoints(store) : listCheckpoints(store, vm));
  return entries.map(listed);
}

function listed({ vm, name, createdAt, manifest }: CheckpointEntry): ListedCheckpoint {
  return {
    vm,
    name,
    createdAt: createdAt.toISOString(),
    ...(manifest === undefined
      ? {}
      : {
          id: manifest.id,
          memoryBytes: manifest.memoryBytes,
          bytes: checkpointBytes(manifest),
        }),
  };
}
