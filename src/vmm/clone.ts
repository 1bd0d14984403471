/**
 * A VM made from another on the same host, which runs at once (requirement E on one host).
 *
 * A running VM is checkpointed live first. Either way the clone is a lazy restore under another name: it shares the
 * sealed segments and redo logs of the checkpoint by hard links, has a redo log of its own for each disk, and loads
 * what it touches. As after every restore the guest is told that it is of another generation, by which it takes its
 * random numbers afresh (native/devices/generation_id.h). The checkpoint stays with the first VM: the next increment
 * of either refers to it.
 */
import { type CheckpointEntry, findCheckpoint } from '../checkpoint/checkpoints.js';
import { isName } from '../checkpoint/names.js';
import { completeRequest } from '../checkpoint/request.js';
import type { Store } from '../checkpoint/store.js';
import { CkptError } from '../errors.js';
import type { SaveProgress } from '../native.js';
import type { CheckpointRequest, CheckpointSummary } from '../types.js';
import { VmClient } from './client.js';
import { Vm } from './vm.js';

export interface CloneOptions {
  /** Of the clone; by default that of the VM and `-clone`, with a number if that is taken. */
  name?: string | undefined;
  /** How the checkpoint of a running VM is taken; its `name` is that of the checkpoint. */
  checkpoint?: Pick<CheckpointRequest, 'name' | 'codec' | 'drain'> | undefined;
  /** Limit on what the clone loads in the background. */
  limitBytesPerSecond?: number | undefined;
  signal?: AbortSignal | undefined;
  onProgress?: (progress: SaveProgress) => void;
}

export interface Cloned {
  /** Not started yet. */
  vm: Vm;
  /** The checkpoint that it goes on from. */
  entry: CheckpointEntry;
  /** Of the checkpoint that was taken for it, if one was. */
  taken?: CheckpointSummary;
}

/**
 * Makes a clone of `source`: the name of a running VM, or a checkpoint (VM@NAME, VM@latest, an id). NOT_FOUND also for a
 * VM that does not run; EXISTS when the name is taken; a failure leaves no clone, but the checkpoint if there is one.
 */
export async function cloneVm(
  store: Store,
  source: string,
  options: CloneOptions = {},
): Promise<Cloned> {
  const found = (await isVm(store, source)) ? undefined : await findCheckpoint(store, source);
  const name = options.name ?? freeCloneName(found?.vm ?? source, new Set(await store.listVms()));
  // Restored under the name of its VM, a checkpoint would take that one's place.
  if (await store.hasVm(name)) throw nameTaken(name);
  const taken = found === undefined ? await take(store, source, options) : undefined;
  const entry = found ?? (await findCheckpoint(store, `${source}@${taken?.name}`));
  const { limitBytesPerSecond } = options;
  const vm = await Vm.restore(store, entry, { name, lazy: true, limitBytesPerSecond });
  return { vm, entry, ...(taken === undefined ? {} : { taken }) };
}

function nameTaken(name: string): CkptError {
  return new CkptError('EXISTS', `VM ${name} exists already; choose another --name`, { vm: name });
}

/** A name that is also the beginning of an id is a VM's if there is one. */
async function isVm(store: Store, source: string): Promise<boolean> {
  return isName(source) && (await store.hasVm(source));
}

async function take(store: Store, vm: string, options: CloneOptions): Promise<CheckpointSummary> {
  const { checkpoint = {}, onProgress, signal } = options;
  const hint = `start it, or clone a checkpoint of it, ${vm}@latest say`;
  const client = await connectRunning(store, vm, hint);
  return client.checkpoint(completeRequest(checkpoint), onProgress, signal);
}

/** A client of a VM that has to run: NOT_FOUND, with the `hint` what to do, when it does not. */
export async function connectRunning(store: Store, vm: string, hint: string): Promise<VmClient> {
  return VmClient.connect(vm, store.controlSocket(vm)).catch((error: unknown) => {
    if (!(error instanceof CkptError && error.code === 'NOT_FOUND')) throw error;
    const message = `VM ${vm} is not running; ${hint}`;
    throw new CkptError('NOT_FOUND', message, { vm }, { cause: error });
  });
}

/** NAME-clone, NAME-clone2, ..., which a race may yet take. */
export function freeCloneName(vm: string, taken: ReadonlySet<string>): string {
  const longest = 50; // so that there is room for the rest
  for (let number = 1; ; number++) {
    const name = `${vm.slice(0, longest)}-clone${number > 1 ? number : ''}`;
    if (!taken.has(name)) return name;
  }
}
