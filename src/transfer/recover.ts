/** What a VM is recovered from (requirement D9): a checkpoint of a target, found there and brought within reach. */
import { type CheckpointEntry, findCheckpoint, openCheckpoint } from '../checkpoint/checkpoints.js';
import { type Reference, parseReference } from '../checkpoint/names.js';
import type { Store } from '../checkpoint/store.js';
import { CkptError } from '../errors.js';
import { DirectoryTarget } from './directory_target.js';
import type { ListedCheckpoint } from './messages.js';
import type { SshTarget } from './ssh_target.js';
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
