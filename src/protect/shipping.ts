/**
 * How the checkpoints of one VM reach the destination (requirements D7, D10). What is sent is decided anew from what
 * both sides have (plan.ts) each time, so it does not matter which of them was away, nor where it broke off; the
 * transfer itself goes on where it stopped. A connection lasts for one round, hence none is ever stale.
 */
import { type CheckpointEntry, listCheckpoints } from '../checkpoint/checkpoints.js';
import { pathExists } from '../checkpoint/files.js';
import type { Store } from '../checkpoint/store.js';
import { CkptError, toCkptError } from '../errors.js';
import { backupVm } from '../transfer/backup.js';
import { DirectoryTarget } from '../transfer/directory_target.js';
import type { Target } from '../transfer/target.js';
import type { ProtectionStep } from '../vmm/protection.js';
import { Bell } from './bell.js';
import type { Clock } from './clock.js';
import type { VmEvent } from './events.js';
import type { Ledger } from './ledger.js';
import { type Known, known, newestOf, newestOwn, nextToShip, tooMany } from './plan.js';

export interface ShippingContext {
  store: Store;
  vm: string;
  ledger: Ledger;
  keep: number | undefined;
  /** Connects; with `create` a store is made where nothing is. */
  open: (create: boolean) => Promise<Target>;
  /** The newest checkpoint has been sent. */
  onNewest: (entry: CheckpointEntry) => Promise<void>;
  tell: (event: VmEvent) => void;
  failed: (step: ProtectionStep, failure: unknown) => void;
  works: (step: ProtectionStep) => void;
  clock: Clock;
  /** The first wait after a failure; each further one is twice as long, up to the second number. */
  retryMs: readonly [first: number, most: number];
}

/** Failures of one checkpoint rather than of the way to the destination. */
const refusals = new Set(['EXISTS', 'DAMAGED', 'UNSUPPORTED', 'USAGE']);
/** What keeps a checkpoint from being removed there, and nothing else from going on. */
const stays = new Set(['UNSUPPORTED', 'BUSY', 'NOT_FOUND']);

export class Shipping {
  readonly #context: ShippingContext;
  readonly #bell = new Bell();
  readonly #refused = new Set<string>();
  /** The checkpoint that is being sent: retention leaves it until then. */
  sending: string | undefined;
  /** Checkpoints taken, and of these how many the last round that ended well has seen. */
  #taken = 0;
  #settled = 0;

  constructor(context: ShippingContext) {
    this.#context = context;
  }

  /** A checkpoint has been taken. */
  taken(): void {
    this.#taken++;
    this.#bell.ring();
  }

  /** Why the destination does not have the last checkpoint yet; undefined when it has. */
  behind(): string | undefined {
    if (this.#settled === this.#taken) return undefined;
    const failure = this.#context.ledger.record.failures.transfer;
    return failure?.message ?? 'the checkpoint before is still being sent';
  }

  /** Sends until `signal` aborts; what an earlier process has left first. */
  async run(signal: AbortSignal): Promise<void> {
    const { clock, failed, works, retryMs } = this.#context;
    const [first, most] = retryMs;
    let waitMs = first;
    const hasEnded = (): boolean => signal.aborted;
    this.#bell.ring();
    for (;;) {
      await this.#bell.wait(signal);
      if (hasEnded()) return;
      try {
        await this.#round(signal);
        works('transfer');
        waitMs = first;
      } catch (error) {
        if (hasEnded()) return;
        failed('transfer', error);
        await clock.sleep(waitMs, signal);
        waitMs = Math.min(waitMs * 2, most);
        this.#bell.ring();
      }
    }
  }

  /** Sends what is to be sent, and applies the retention there. */
  async #round(signal: AbortSignal): Promise<void> {
    const { store, vm, ledger, keep, open, works } = this.#context;
    // A mount point without its device must not become a store.
    await using target = await open(ledger.record.newest === undefined);
    const hangUp = (): void => void target[Symbol.asyncDispose]();
    signal.addEventListener('abort', hangUp);
    try {
      if (target instanceof DirectoryTarget) await target.refuseSame(store);
      for (;;) {
        const there = await target.list(vm);
        const newest = newestOf(there);
        if (newest) ledger.holds(newest);
        await this.#prune(target, there);
        const taken = this.#taken;
        const entries = await listCheckpoints(store, vm);
        const here = entries.map((entry) => ({ ...known(entry), entry }));
        const next = nextToShip(here, there, keep, this.#refused);
        const isNewest = next !== undefined && next.id === newestOwn(here)?.id;
        if (!isNewest) this.#settled = taken;
        const entry = here.find(({ id }) => id !== undefined && id === next?.id)?.entry;
        if (!entry) return;
        this.sending = entry.name;
        // Retention may just have been quicker.
        if (!(await pathExists(entry.directory))) continue;
        await this.#ship(target, entry, there, signal);
        works('transfer');
        if (isNewest) await this.#context.onNewest(entry);
      }
    } finally {
      this.sending = undefined;
      signal.removeEventListener('abort', hangUp);
    }
  }

  /** Sends what is not among those `there`. Nothing is waited for between its arrival and its being told. */
  async #ship(
    target: Target,
    entry: CheckpointEntry,
    there: readonly Known[],
    signal: AbortSignal,
  ): Promise<void> {
    const { store, vm, ledger, tell } = this.#context;
    const { name } = entry;
    const id = entry.manifest?.id ?? '';
    tell({ event: 'sending', name, id });
    try {
      const [sent] = await backupVm(store, vm, target, { checkpoint: name }, { signal });
      if (!sent) return;
      const { sentBytes, presentBytes, totalBytes, totalMs } = sent;
      ledger.shipped(sentBytes);
      const newest = newestOf([...there, known(entry)]);
      const rpoMs = newest ? ledger.holds(newest) : 0;
      tell({ event: 'shipped', name, id, sentBytes, presentBytes, totalBytes, totalMs, rpoMs });
    } catch (error) {
      if (refusals.has(toCkptError(error).code)) this.#refused.add(id);
      throw error;
    }
  }

  /** Keeps no more there than asked; what stays nevertheless keeps nothing else from going on. */
  async #prune(target: Target, there: readonly Known[]): Promise<void> {
    const { vm, keep, tell, failed, works } = this.#context;
    let failure: unknown;
    for (const { name, id } of tooMany(there, keep)) {
      try {
        await target.remove(vm, name, id);
        tell({ event: 'removed', name, from: 'destination' });
      } catch (error) {
        if (!(error instanceof CkptError && stays.has(error.code))) throw error;
        failure = error;
      }
    }
    if (failure === undefined) works('far-retention');
    else failed('far-retention', failure);
  }
}
