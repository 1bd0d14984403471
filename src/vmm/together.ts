/**
 * Several VMs checkpointed at one moment (requirement D1), each by its own process.
 *
 * Every checkpoint waits at each of its steps until all are there: ready, without disk requests under way, with
 * the guest stopped, with the pause's work done, and durable but for the name. So all guests stand still before
 * anything is taken of the first, and none goes on before all has been taken of the last: what one has received
 * from another by then, the other has sent by then. Only two of the waits are inside the pause.
 *
 * Either all are published or none, unless something fails between the first rename and the last; the manifest of
 * each names the whole group. One that fails ends the others. So does the end of this process, which VM
 * processes see by their connections; and should it hang, a guest that stands still goes on by itself after the
 * limit of the request.
 */
import { newId, timeName } from '../checkpoint/names.js';
import { CkptError, toCkptError } from '../errors.js';
import type { SaveProgress } from '../native.js';
import type { CheckpointRequest, CheckpointSummary, GroupStep, VmControl } from '../types.js';

/** A VM of the group: its client. */
export type GroupMember = Pick<VmControl, 'checkpoint' | 'proceed'> & { readonly vm: string };

/** What is asked of all of them; `wait` is always true. */
export type GroupRequest = Omit<CheckpointRequest, 'group' | 'wait'> & {
  /** How long the others may hold up a guest; 2000 by default, at most a minute. */
  holdLimitMs?: number | undefined;
};

export interface GroupHooks {
  /** The sum over all VMs. */
  onProgress?: (progress: SaveProgress) => void;
  signal?: AbortSignal | undefined;
}

export interface GroupSummary {
  /** Its id, which every manifest has. */
  group: string;
  /** The name of each checkpoint. */
  name: string;
  /** In the order of the VMs. */
  checkpoints: CheckpointSummary[];
}

/**
 * Takes and publishes a checkpoint of each VM, all of one moment. By default they are named after the time and the
 * group. Rejects with the first failure, whose `data` has the `vm`; the VMs go on, and of the group nothing is
 * published but what `data.published` names. BUSY when a VM was not ready within the limit.
 */
export async function checkpointTogether(
  members: readonly GroupMember[],
  request: GroupRequest = {},
  hooks: GroupHooks = {},
): Promise<GroupSummary> {
  const vms = members.map(({ vm }) => vm);
  if (vms.length === 0 || new Set(vms).size < vms.length) {
    throw new CkptError('USAGE', 'a group is of one or more VMs, each named once', { vms });
  }
  const { holdLimitMs, ...rest } = request;
  const group = newId();
  const name = request.name ?? `${timeName(new Date())}-${group.slice(0, 8)}`;
  const end = new AbortController();
  const signal = AbortSignal.any([...(hooks.signal ? [hooks.signal] : []), end.signal]);
  let failure: CkptError | undefined;
  const fail = (vm: string, error: unknown): void => {
    failure ??= ofVm(vm, toCkptError(error));
    end.abort();
  };
  const arrived = new Map<GroupStep, number>();
  const onStep = (step: GroupStep): void => {
    const there = (arrived.get(step) ?? 0) + 1;
    arrived.set(step, there);
    if (there < members.length) return;
    for (const member of members) {
      member.proceed(group, step).catch((error: unknown) => fail(member.vm, error));
    }
  };
  const progress = new Map<string, SaveProgress>();
  const ends = await Promise.allSettled(
    members.map(async (member) => {
      try {
        return await member.checkpoint(
          { ...rest, name, wait: true, group: { id: group, vms, holdLimitMs } },
          (at) => {
            progress.set(member.vm, at);
            hooks.onProgress?.(sum([...progress.values()]));
          },
          signal,
          onStep,
        );
      } catch (error) {
        fail(member.vm, error);
        throw error;
      }
    }),
  );
  const checkpoints = ends.flatMap((one) => (one.status === 'fulfilled' ? [one.value] : []));
  if (checkpoints.length === members.length) return { group, name, checkpoints };
  if (hooks.signal?.aborted) throw new CkptError('CANCELLED', 'the checkpoints were cancelled');
  if (failure === undefined) throw new Error('a checkpoint failed without a failure');
  const { code, message, data } = failure;
  const published = checkpoints.map((one) => `${one.vm}@${one.name}`);
  const left = published.length === 0 ? '' : `; ${published.join(', ')} are published`;
  throw new CkptError(code, message + left, { ...data, published }, { cause: failure });
}

function ofVm(vm: string, { code, message, data, cause }: CkptError): CkptError {
  return new CkptError(code, `VM ${vm}: ${message}`, { ...data, vm }, { cause });
}

function sum(all: SaveProgress[]): SaveProgress {
  const total = { blocksTotal: 0, blocksSaved: 0, storedBytes: 0 };
  for (const one of all) {
    total.blocksTotal += one.blocksTotal;
    total.blocksSaved += one.blocksSaved;
    total.storedBytes += one.storedBytes;
  }
  return total;
}
