/**
 * What a VM's process does to the redo logs of its disks beside running them: commits and compactions. One at a
 * time, and no checkpoint meanwhile: that would refer to a parent that is still being written, or to logs that
 * are just being replaced.
 *
 * Lives on the JavaScript thread.
 */
import createDebug from 'debug';
import type { Store } from '../checkpoint/store.js';
import { CkptError } from '../errors.js';
import type { NativeMachine, TaskHooks } from '../native.js';
import type {
  CommitOptions,
  CommitSummary,
  CompactDiskOptions,
  CompactDiskSummary,
  VmConfig,
} from '../types.js';
import { commitDisk } from './disk_commit.js';
import { compactDisk } from './disk_compact.js';
import type { DiskPlace } from './disk_place.js';
import type { Saves } from './saves.js';

const debug = createDebug('ckptfs:vm');

export interface DiskWorkContext {
  store: Store;
  config: VmConfig;
  machine: NativeMachine;
  saves: Pick<Saves, 'refuseBusy'>;
}

export class DiskWork {
  readonly #context: DiskWorkContext;
  #underWay: string | undefined;
  #cancel = new AbortController();
  #ended: Promise<unknown> = Promise.resolve();

  constructor(context: DiskWorkContext) {
    this.#context = context;
  }

  /** What is being done, if anything. */
  get underWay(): string | undefined {
    return this.#underWay;
  }

  /** BUSY while something is being done. */
  refuseBusy(): void {
    if (this.#underWay === undefined) return;
    throw new CkptError(
      'BUSY',
      `VM ${this.#context.config.name}: ${this.#underWay}; wait for that or cancel it`,
    );
  }

  /** Commits the redo logs of a disk into its parent. BUSY while there is other work or a checkpoint. */
  commit(id: string, options: CommitOptions, hooks: TaskHooks): Promise<CommitSummary> {
    return this.#run(id, 'committed', hooks, (place, all) => commitDisk(place, options, all));
  }

  /** Compacts the redo logs of a disk. BUSY as above. */
  compact(id: string, options: CompactDiskOptions, hooks: TaskHooks): Promise<CompactDiskSummary> {
    return this.#run(id, 'compacted', hooks, (place, all) => compactDisk(place, options, all));
  }

  /** Cancels what is under way and resolves when it has ended. */
  async cancel(): Promise<void> {
    this.#cancel.abort();
    await this.#ended;
  }

  async #run<Summary>(
    id: string,
    what: string,
    hooks: TaskHooks,
    work: (place: DiskPlace, hooks: TaskHooks) => Promise<Summary>,
  ): Promise<Summary> {
    const { store, config, machine, saves } = this.#context;
    const vm = config.name;
    saves.refuseBusy();
    this.refuseBusy();
    const disk = config.disks.find((candidate) => candidate.id === id);
    if (!disk) throw new CkptError('NOT_FOUND', `VM ${vm} has no disk ${id}`, { disk: id });
    this.#underWay = `disk ${id} is being ${what}`;
    this.#cancel = new AbortController();
    const signal = AbortSignal.any([...(hooks.signal ? [hooks.signal] : []), this.#cancel.signal]);
    const done = work({ store, vm, disk, machine }, { ...hooks, signal }).finally(
      () => (this.#underWay = undefined),
    );
    this.#ended = done.catch((error: unknown) => debug('disk %s %s: %o', id, what, error));
    return done;
  }
}
