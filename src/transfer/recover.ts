/** What a VM is recovered from (requirement D9): a checkpoint of a target, found there and brought within reach. */
import { type CheckpointEntry, findCheckpoint, openCheckpoint } from '../checkpoint/checkpoints.js';
import { type Reference, parseReference } from '../checkpoint/names.js';
import type { Store } from '../checkpoint/store.js';
import { CkptError } from '../errors.js';
import { DirectoryTarget } from './directory_target.js';
import { Arrival, type ArrivalHooks, type Dial, type FarLink } from './arrival.js';
import type { Dialled, SshDestination, SshOptions } from './dial.js';
import type { ListedCheckpoint } from './messages.js';
import { SshTarget } from './ssh_target.js';
import type { TransferHooks } from './target.js';

/**
 * A checkpoint of the target, as a directory of this machine: of a target in a directory where it is, of one at the
 * far end after it has been copied into `local`, unless that has it already. NOT_FOUND, USAGE (several fit), DAMAGED.
 */
export async function bring(
  target: DirectoryTarget | SshTarget,
  reference: string,
  local: Store,
  hooks: TransferHooks = {},
): Promise<CheckpointEntry> {
  if (target instanceof DirectoryTarget) {
    const entry = await findCheckpoint(target.store, reference);
    await openCheckpoint(entry.directory);
    return entry;
  }
  const { vm, name } = choose(await target.list(), reference);
  await target.fetch(vm, name, local, hooks);
  return findCheckpoint(local, `${vm}@${name}`);
}

/** A far end that has been dialled, and how it is reached again. */
export interface Reached {
  destination: SshDestination;
  options: SshOptions;
  dialled: Dialled;
}

/** A checkpoint to be restored from, and what brings it if not all of it is here. */
export interface Brought {
  vm: string;
  name: string;
  directory: string;
  arriving?: Arrival;
}

/**
 * A checkpoint of the far end, within reach as soon as a VM can run from it: the rest comes meanwhile. `into` opens the
 * store once it is known which one it is. NOT_FOUND, USAGE (several fit), DAMAGED, BUSY, NO_SPACE, IO.
 */
export async function bringLazily(
  { destination, options, dialled }: Reached,
  reference: string,
  into: (of: { vm: string; name: string }) => Promise<Store>,
  { signal, ...hooks }: ArrivalHooks & { signal?: AbortSignal } = {},
): Promise<Brought> {
  const target = await SshTarget.open(destination, options, signal, dialled);
  // What waits for the far end then fails.
  const hangUp = (): void => void target[Symbol.asyncDispose]();
  signal?.addEventListener('abort', hangUp);
  try {
    const { vm, name } = await find(target, reference);
    const local = await into({ vm, name });
    const dialAgain: Dial = async (ending) =>
      linkTo(await SshTarget.open(destination, options, ending), vm, name);
    const link = await linkTo(target, vm, name);
    const arriving = await Arrival.begin(link, dialAgain, local, { vm, name }, hooks);
    if (arriving) return { vm, name, directory: arriving.directory, arriving };
    const { directory } = await findCheckpoint(local, `${vm}@${name}`);
    return { vm, name, directory };
  } catch (error) {
    await target[Symbol.asyncDispose]();
    throw signal?.aborted ? new CkptError('CANCELLED', 'the recovery was cancelled') : error;
  } finally {
    signal?.removeEventListener('abort', hangUp);
  }
}

/** Opens a checkpoint there; on failure the target is closed. */
async function linkTo(target: SshTarget, vm: string, name: string): Promise<FarLink> {
  const end = () => target[Symbol.asyncDispose]();
  try {
    const far = await target.checkpoint(vm, name);
    return { far, explain: (failure) => target.explain(failure), end };
  } catch (error) {
    await end();
    throw error;
  }
}

/** Which checkpoint is meant; who names one exactly need not be told what there is. */
async function find(target: SshTarget, text: string): Promise<{ vm: string; name: string }> {
  const reference = parseReference(text);
  if (reference.kind === 'name') return reference;
  const among = reference.kind === 'latest' ? reference.vm : undefined;
  return choose(await target.list(among), text);
}

/** The one of a target's checkpoints that a person names. NOT_FOUND, USAGE. */
export function choose(all: readonly ListedCheckpoint[], text: string): ListedCheckpoint {
  const reference = parseReference(text);
  const found = all.filter((entry) => fits(entry, reference));
  const whole = found.filter(({ id }) => id !== undefined);
  const newest = [...whole].sort((a, b) => (a.createdAt < b.createdAt ? 1 : -1));
  const [first, second] = reference.kind === 'latest' ? newest.slice(0, 1) : found;
  if (first === undefined) {
    const names = all.map(({ vm, name }) => `${vm}@${name}`);
    throw new CkptError(
      'NOT_FOUND',
      `the target has no checkpoint ${text}; ${names.length > 0 ? `there are: ${names.slice(-10).join(', ')}` : 'it has none'}`,
      { reference: text },
    );
  }
  if (second !== undefined) {
    throw new CkptError('USAGE', `${text} is the start of several ids; give more digits`, {
      reference: text,
    });
  }
  return first;
}

function fits({ vm, name, id }: ListedCheckpoint, reference: Reference): boolean {
  switch (reference.kind) {
    case 'id':
      return id?.startsWith(reference.prefix) === true;
    case 'latest':
      return vm === reference.vm;
    case 'name':
      return vm === reference.vm && name === reference.name;
  }
}
