/**
 * What a VM's process does for its checkpoints in the background: it compacts them (compact.ts does the work),
 * and removes what was learnt of those that are gone.
 *
 * Room can come back only when a checkpoint has been removed, by whomever. So after each checkpoint and each
 * removal of its own this looks whether one of those it has seen before is gone, which costs one listing, and
 * only then plans. At most one compaction runs at a time; a failed one is logged, harms nothing, and is tried
 * again after the next removal. Lives on the JavaScript thread, until stop().
 */
import createDebug from 'debug';
import { listCheckpointNames } from '../checkpoint/checkpoints.js';
import { compactVm } from '../checkpoint/compact.js';
import { cleanOrders } from '../checkpoint/publish.js';
import type { Store } from '../checkpoint/store.js';
import { toCkptError } from '../errors.js';

const debug = createDebug('ckptfs:compact');

export class Upkeep {
  readonly #store: Store;
  readonly #vm: string;
  readonly #end = new AbortController();
  /** Checkpoints at the last look; unknown before the first one, which therefore compacts. */
  #seen: ReadonlySet<string> | undefined;
  #underWay: Promise<void> | undefined;
  #again = false;

  constructor(store: Store, vm: string) {
    this.#store = store;
    this.#vm = vm;
  }

  /** Checkpoints have come or gone: compacts if that may give room back. */
  look(): void {
    if (this.#end.signal.aborted) return;
    if (this.#underWay) {
      this.#again = true;
      return;
    }
    this.#underWay = this.#compactIfRemoved()
      .catch((error: unknown) => debug('%s: %s', this.#vm, toCkptError(error).message))
      .finally(() => {
        this.#underWay = undefined;
        if (!this.#again) return;
        this.#again = false;
        this.look();
      });
  }

  /** Cancels what is under way and resolves when that has ended. */
  async stop(): Promise<void> {
    this.#end.abort();
    await this.#underWay;
  }

  async #compactIfRemoved(): Promise<void> {
    const names = new Set(await listCheckpointNames(this.#store, this.#vm));
    const before = this.#seen;
    this.#seen = names;
    if (before && [...before].every((name) => names.has(name))) return;
    await cleanOrders(this.#store, this.#vm);
    await compactVm(this.#store, this.#vm, { signal: this.#end.signal });
  }
}
