/**
 * A VM that runs is copied to another store (requirements E1 to E3): by pre-copy (precopy.ts), each round of which is sent as
 * a checkpoint. What arrives is a checkpoint of another VM, the clone, with disks of its own: the clone goes on from it
 * there by an ordinary restore, which makes it another generation. The rounds before are removed on both sides.
 *
 * In each round only what the clone's VM does not have there yet is sent: the parents of disks in the first, then what
 * was written meanwhile. Here the rounds are removed at the end, not one by one: the VM would compact what is left of them
 * (upkeep.ts), and that would have to be sent anew.
 */
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { findCheckpoint, freeTimeName, steadily } from '../checkpoint/checkpoints.js';
import { currentLogs } from '../checkpoint/disk_names.js';
import { namesIn } from '../checkpoint/files.js';
import {
  checkName,
  compactionPrefix,
  isName,
  receptionPrefix,
  temporaryPrefix,
} from '../checkpoint/names.js';
import type { Store } from '../checkpoint/store.js';
import { CkptError, toCkptError } from '../errors.js';
import type { SaveProgress } from '../native.js';
import type { CheckpointRequest, CheckpointSummary, VmStatus } from '../types.js';
import { connectRunning, freeCloneName } from '../vmm/clone.js';
import { checkpointsBeingLoaded, removeUnlessLoaded } from '../vmm/loading.js';
import {
  type Precopied,
  precopy,
  type PrecopyHooks,
  type PrecopyPolicy,
  type PrecopySource,
  type PrecopyTarget,
} from '../vmm/precopy.js';
import { DirectoryTarget } from './directory_target.js';
import { pack } from './parcel.js';
import type { Target, TransferHooks } from './target.js';

export interface CloneToOptions extends PrecopyPolicy {
  /** Of the clone; by default that of the VM and `-clone`, with a number if the other store has that one. */
  name?: string | undefined;
  /** How the checkpoint of each round is taken. */
  request?: Pick<CheckpointRequest, 'codec' | 'drain' | 'limitBytesPerSecond'>;
}

export interface CloneToHooks extends PrecopyHooks, Pick<TransferHooks, 'onProgress'> {
  /** The clone has its name there, and the rounds begin. */
  onName?: (vm: string) => void;
  /** A round of no use any more could not be removed, there or here. */
  onLeft?: (what: string, why: CkptError) => void;
}

export interface ClonedTo extends Precopied {
  /** The clone, and the checkpoint there that it goes on from. */
  vm: string;
  name: string;
  id: string;
  /** Of all rounds. */
  shippedBytes: number;
  totalMs: number;
}

/** How long a checkpoint may take to be published or cancelled, or whatever else keeps one from being taken. */
const busyLimitMs = 30_000;
const pollMs = 50;
/** What keeps a round from being removed, and nothing else from going on. */
const stays = new Set(['UNSUPPORTED', 'BUSY']);

/**
 * Copies `vm`, which runs, to the store that `open` connects to, anew after a connection has ended. NOT_FOUND (it does not
 * run), EXISTS (the name is taken there), BUSY (rounds do not converge and the policy is to stop), CANCELLED, and what a
 * checkpoint or the target fails with. A failure leaves nothing, but for what onLeft tells of.
 */
export async function cloneTo(
  store: Store,
  vm: string,
  open: (signal?: AbortSignal) => Promise<Target>,
  options: CloneToOptions = {},
  hooks: CloneToHooks = {},
): Promise<ClonedTo> {
  const begun = performance.now();
  const { name: wanted, request = {}, ...policy } = options;
  await refuseCheckpoint(store, vm);
  const client = await connectRunning(store, vm, 'start it, or send what it has by "backup"');
  await using place = new Place(store, vm, open, hooks);
  const name = await place.claim(wanted);
  hooks.onName?.(name);
  const rounds = new Rounds(store, vm, client, place);
  try {
    const done = await precopy(rounds, rounds, { ...policy, ...request }, hooks);
    const { checkpoint } = done.last;
    await rounds.removeHere(checkpoint.name);
    const shippedBytes = [...done.rounds, done.last].reduce(
      (sum, round) => sum + round.shippedBytes,
      0,
    );
    const totalMs = performance.now() - begun;
    return { ...done, vm: name, name: checkpoint.name, id: checkpoint.id, shippedBytes, totalMs };
  } catch (error) {
    await rounds.removeHere();
    await place.abandon();
    throw hooks.signal?.aborted
      ? new CkptError('CANCELLED', 'the clone was cancelled', { vm }, { cause: error })
      : error;
  }
}

/** A checkpoint does not change while it is sent: there is nothing to go round for. */
async function refuseCheckpoint(store: Store, vm: string): Promise<void> {
  if (isName(vm)) return store.needVm(vm);
  throw new CkptError(
    'USAGE',
    `${JSON.stringify(vm)} is not a VM: only one that runs is copied so; send a checkpoint by "backup VM --checkpoint NAME"`,
    { vm },
  );
}

/** The other store, and what of the clone is there. A guard: the connection ends with it. */
class Place implements AsyncDisposable {
  #connection: Promise<Target> | undefined;
  /** The clone; empty until it has a name. */
  #name = '';
  /** Rounds that are there, or may be. */
  readonly #there = new Map<string, CheckpointSummary>();

  constructor(
    private readonly store: Store,
    private readonly vm: string,
    private readonly open: (signal?: AbortSignal) => Promise<Target>,
    readonly hooks: CloneToHooks,
  ) {}

  /** Finds a name for the clone that no VM has there. EXISTS when the wanted one is taken. */
  async claim(wanted: string | undefined): Promise<string> {
    if (wanted !== undefined) checkName('VM', wanted);
    return this.#with(async (target) => {
      const taken = new Set((await target.list()).map(({ vm }) => vm));
      if (target instanceof DirectoryTarget) {
        await target.refuseSame(this.store);
        for (const vm of await target.store.listVms()) taken.add(vm);
      }
      if (wanted !== undefined && taken.has(wanted)) {
        const message = `${target.info.store} has a VM ${wanted} already; choose another --name`;
        throw new CkptError('EXISTS', message, { vm: wanted });
      }
      this.#name = wanted ?? freeCloneName(this.vm, taken);
      return this.#name;
    }, this.hooks.signal);
  }

  /** Sends a checkpoint as one of the clone; again where a compaction has just put another in its place. */
  async send(checkpoint: CheckpointSummary, signal?: AbortSignal): Promise<number> {
    this.#there.set(checkpoint.name, checkpoint);
    const { onProgress } = this.hooks;
    const hooks = { signal, ...(onProgress === undefined ? {} : { onProgress }) };
    const directory = this.store.checkpointDirectory(this.vm, checkpoint.name);
    const { sentBytes } = await steadily(directory, async () => {
      const parcel = await pack(directory, this.#name);
      return this.#with((target) => target.send(parcel, hooks), signal);
    });
    return sentBytes;
  }

  async remove({ name, id }: CheckpointSummary): Promise<void> {
    await this.#with(async (target) => {
      await target.remove(this.#name, name, id).catch((error: unknown) => {
        const why = toCkptError(error);
        if (stays.has(why.code)) this.hooks.onLeft?.(`${this.#name}@${name} there`, why);
        else if (why.code !== 'NOT_FOUND') throw error;
      });
    });
    this.#there.delete(name);
  }

  /** Leaves nothing of the clone there, if it can be reached. */
  async abandon(): Promise<void> {
    try {
      for (const one of this.#there.values()) await this.remove(one);
      await this.#with((target) => target.forget(this.#name));
    } catch (error) {
      this.hooks.onLeft?.(`what has come of ${this.#name} there`, toCkptError(error));
    }
  }

  /** One request; after a failure, or when `signal` hangs up, the next one has a connection of its own. */
  async #with<T>(work: (target: Target) => Promise<T>, signal?: AbortSignal): Promise<T> {
    if (signal?.aborted) throw new CkptError('CANCELLED', 'the clone was cancelled');
    this.#connection ??= this.open(signal);
    const target = await this.#connection.catch((error: unknown) => {
      // One that cannot be made is not tried again, which may take minutes each time.
      if (signal?.aborted) this.#connection = undefined;
      throw error;
    });
    const hangUp = (): void => void this.#hangUp();
    signal?.addEventListener('abort', hangUp);
    try {
      return await work(target);
    } catch (error) {
      await this.#hangUp();
      throw error;
    } finally {
      signal?.removeEventListener('abort', hangUp);
    }
  }

  async #hangUp(): Promise<void> {
    const ended = this.#connection;
    this.#connection = undefined;
    await ended?.then(
      (target) => target[Symbol.asyncDispose](),
      () => undefined, // it has never been there
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#hangUp();
  }
}

/** What the redo logs hold that take the writes of a VM's disks: each checkpoint begins new ones. */
async function liveLogBytes(store: Store, vm: string): Promise<number> {
  let bytes = 0;
  const disks = join(store.vmDirectory(vm), 'disks');
  for (const disk of (await namesIn(disks)).filter(isName)) {
    const newest = currentLogs(await namesIn(join(disks, disk))).at(-1);
    if (newest !== undefined) bytes += (await stat(join(disks, disk, newest))).size;
  }
  return bytes;
}

/** Whether a checkpoint is being taken: cancelled late, it may still be published. */
async function isPublishing(store: Store, vm: string): Promise<boolean> {
  const others = [compactionPrefix, receptionPrefix];
  return (await namesIn(store.checkpointsDirectory(vm))).some(
    (name) => name.startsWith(temporaryPrefix) && !others.some((prefix) => name.startsWith(prefix)),
  );
}

/** The rounds: checkpoints of the VM here that are sent there. */
class Rounds implements PrecopySource, PrecopyTarget {
  readonly #names = new Set<string>();

  constructor(
    private readonly store: Store,
    readonly vm: string,
    private readonly client: PrecopySource,
    private readonly place: Place,
  ) {}

  /** With what has been written to disks since the last round, which the next one sends as well. */
  async status(): Promise<VmStatus> {
    const status = await this.client.status();
    return { ...status, dirtyBytes: status.dirtyBytes + (await liveLogBytes(this.store, this.vm)) };
  }

  async checkpoint(
    request: CheckpointRequest,
    onProgress?: (progress: SaveProgress) => void,
    signal?: AbortSignal,
  ): Promise<CheckpointSummary> {
    const name = await freeTimeName(this.store, this.vm, new Date(), 'clone-');
    // Before it is taken: one that is cancelled may just have been published.
    this.#names.add(name);
    for (let deadline = Date.now() + busyLimitMs; ;) {
      try {
        return await this.client.checkpoint({ ...request, name }, onProgress, signal);
      } catch (error) {
        // Whoever else takes one, a schedule or "protect", is waited for as long as it saves.
        const isBusy = toCkptError(error).code === 'BUSY';
        const { save } = isBusy ? await this.client.status() : {};
        if (save !== undefined) deadline = Date.now() + busyLimitMs;
        if (!isBusy || signal?.aborted || Date.now() >= deadline) throw error;
        await setTimeout(pollMs);
      }
    }
  }

  ship(checkpoint: CheckpointSummary, signal?: AbortSignal): Promise<number> {
    return this.place.send(checkpoint, signal);
  }

  drop(checkpoint: CheckpointSummary): Promise<void> {
    return this.place.remove(checkpoint);
  }

  /** Removes the rounds here, but for one; first one that has been cancelled comes to its end. */
  async removeHere(but?: string): Promise<void> {
    for (const deadline = Date.now() + busyLimitMs; but === undefined && Date.now() < deadline;) {
      if (!(await isPublishing(this.store, this.vm))) break;
      await setTimeout(pollMs);
    }
    for (const name of this.#names) {
      if (name === but) continue;
      try {
        const entry = await findCheckpoint(this.store, `${this.vm}@${name}`);
        await removeUnlessLoaded(this.store, entry, await checkpointsBeingLoaded(this.store));
      } catch (error) {
        const why = toCkptError(error);
        if (why.code !== 'NOT_FOUND') this.place.hooks.onLeft?.(`${this.vm}@${name}`, why);
      }
    }
  }
}
