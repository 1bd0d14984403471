/**
 * Checkpoints that come and go by mkdir and rmdir in a mount: asked of the VM, which alone can take one, or
 * removed from the store as `ckptfs rm` does.
 */
import { findCheckpoint } from '../checkpoint/checkpoints.js';
import { checkName } from '../checkpoint/names.js';
import { completeRequest } from '../checkpoint/request.js';
import type { Store } from '../checkpoint/store.js';
import { CkptError } from '../errors.js';
import { askStatus, VmClient } from '../vmm/client.js';
import { checkpointsBeingLoaded, removeUnlessLoaded } from '../vmm/loading.js';
import type { Vm } from '../vmm/vm.js';
import { FsError } from './errno.js';

/** What it takes of the VM, where its own process makes the mount. */
export type CheckpointedVm = Pick<Vm, 'checkpoint' | 'saving' | 'status'>;

/** Takes a live checkpoint; resolves when it is published. EHOSTDOWN when the VM does not run. */
export async function takeCheckpoint(
  store: Store,
  vm: string,
  name: string,
  own?: CheckpointedVm,
): Promise<void> {
  const request = completeRequest({ name: checkName('checkpoint', name) });
  const status = own ? own.status() : await askStatus(store, vm);
  if (status === 'silent') throw new FsError('ETIMEDOUT', `VM ${vm} does not answer`);
  if (status === undefined || !['running', 'paused'].includes(status.state)) {
    throw new FsError('EHOSTDOWN', `VM ${vm} is not running; start it with ckptfs run`);
  }
  if (own) await own.checkpoint(request);
  else await (await VmClient.connect(vm, store.controlSocket(vm))).checkpoint(request);
}

/** Removes a checkpoint. BUSY while it is being saved, and while a VM loads from it. */
export async function removeCheckpoint(
  store: Store,
  vm: string,
  name: string,
  own?: CheckpointedVm,
): Promise<void> {
  if (own?.saving()?.name === name) {
    throw new CkptError('BUSY', `${vm}@${name} is still being saved; wait for it`, { vm, name });
  }
  const entry = await findCheckpoint(store, `${vm}@${name}`);
  await removeUnlessLoaded(store, entry, await checkpointsBeingLoaded(store));
}
