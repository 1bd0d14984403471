/** The protection of one VM: its checkpoints are taken at their pace, and sent beside that. */
import { type CheckpointEntry, freeTimeName, listCheckpoints } from '../checkpoint/checkpoints.js';
import type { Store } from '../checkpoint/store.js';
import { CkptError, toCkptError } from '../errors.js';
import { commitAll } from '../transfer/backup.js';
import type { Target } from '../transfer/target.js';
import type { CheckpointRequest } from '../types.js';
import { askStatus, VmClient } from '../vmm/client.js';
import { keepNewest } from '../vmm/keep_newest.js';
import type { ProtectionStep } from '../vmm/protection.js';
import type { Clock } from './clock.js';
import type { ProtectEvent, VmEvent } from './events.js';
import type { Ledger } from './ledger.js';
import { type Left, pace, type PaceConfig, type Paced } from './pace.js';
import { known, newestOwn, protectPrefix } from './plan.js';
import { Shipping } from './shipping.js';

export interface ProtectedContext {
  store: Store;
  vm: string;
  ledger: Ledger;
  pace: PaceConfig;
  keep?: number | undefined;
  commitBytes?: number | undefined;
  request?: Omit<CheckpointRequest, 'name' | 'wait' | 'suspend'> | undefined;
  open: (create: boolean) => Promise<Target>;
  tell: (event: ProtectEvent) => void;
  clock: Clock;
  retryMs: readonly [first: number, most: number];
}

const stillSaved = 'the checkpoint before is still being saved';

export class ProtectedVm implements Paced {
  readonly #context: ProtectedContext;
  readonly #shipping: Shipping;
  readonly #signal: AbortSignal;
  /** A checkpoint and a commit exclude each other; the one waits for the other. */
  #turn: Promise<unknown> = Promise.resolve();
  #taking: Promise<string | undefined> | undefined;

  constructor(context: ProtectedContext, signal: AbortSignal) {
    this.#context = context;
    this.#signal = signal;
    this.#shipping = new Shipping({
      ...context,
      keep: context.keep,
      onNewest: (entry) => this.#commit(entry),
      tell: (event) => this.#tell(event),
      failed: (step, failure) => this.#failed(step, failure),
      works: (step) => this.#works(step),
    });
  }

  /** Protects until the signal aborts. */
  async run(): Promise<void> {
    const { pace: config, clock } = this.#context;
    await this.#prune();
    const left = await this.#left();
    await Promise.all([
      pace(config, this, left, clock, this.#signal),
      this.#shipping.run(this.#signal),
    ]);
  }

  /** One that lasts longer than an interval goes on, and is the reason why there is no other. */
  async take(): Promise<string | undefined> {
    if (this.#taking) return stillSaved;
    const obstacle = await this.#obstacle();
    if (obstacle !== undefined) return obstacle;
    this.#taking = this.#checkpointAndPrune().finally(() => (this.#taking = undefined));
    const { clock, pace: config } = this.#context;
    const done = new AbortController();
    const limit = clock.sleep(config.everyMs, AbortSignal.any([this.#signal, done.signal]));
    try {
      return await Promise.race([this.#taking, limit.then(() => stillSaved)]);
    } finally {
      done.abort();
    }
  }

  async #checkpointAndPrune(): Promise<string | undefined> {
    const why = await this.#exclusively(() => this.#checkpoint());
    if (why === undefined) await this.#prune();
    return why;
  }

  async writtenBytes(): Promise<number> {
    const status = await askStatus(this.#context.store, this.#context.vm).catch(() => undefined);
    return typeof status === 'object' && status.state === 'running' ? status.dirtyBytes : 0;
  }

  behind(): string | undefined {
    return this.#shipping.behind();
  }

  missed(why: string, intervals: number): void {
    const { ledger } = this.#context;
    ledger.missed(why, intervals);
    this.#tell({ event: 'missed', why, intervals, missed: ledger.record.missed });
  }

  /** The store has what the last process has taken, whatever became of that process. */
  async #left(): Promise<Left> {
    const { store, vm, ledger } = this.#context;
    const entries = await listCheckpoints(store, vm);
    const newest = newestOwn(entries.map(known));
    const ageMs = newest && Date.now() - Date.parse(newest.createdAt);
    return { ageMs, brokenOff: ledger.brokenOff };
  }

  async #obstacle(): Promise<string | undefined> {
    const { store, vm } = this.#context;
    const status = await askStatus(store, vm).catch((error: unknown) => toCkptError(error));
    if (status instanceof CkptError) return status.message;
    if (status === undefined) return 'the VM does not run';
    if (status === 'silent') return 'the process of the VM does not answer';
    if (status.state !== 'running') return `the VM is ${status.state}`;
    return status.save && `checkpoint ${status.save.name} is being saved`;
  }

  /** Takes one; the reason when it failed. */
  async #checkpoint(): Promise<string | undefined> {
    const { store, vm, ledger, request } = this.#context;
    try {
      const name = await freeTimeName(store, vm, new Date(), protectPrefix);
      const client = await VmClient.connect(vm, store.controlSocket(vm));
      const { id, pauseUs, storedBytes } = await client.checkpoint(
        { ...request, name, wait: true },
        undefined,
        this.#signal,
      );
      ledger.taken();
      this.#tell({
        ...{ event: 'taken', name, id, pauseUs },
        ...(storedBytes === undefined ? {} : { storedBytes }),
      });
      this.#works('checkpoint');
      this.#shipping.taken();
      return undefined;
    } catch (error) {
      const { code, message } = toCkptError(error);
      if (this.#signal.aborted) return message;
      // Somebody else's checkpoint or commit is no failure.
      if (code !== 'BUSY') this.#failed('checkpoint', error);
      return message;
    }
  }

  /** Retention in the store of the VM. */
  async #prune(): Promise<void> {
    const { store, vm, keep } = this.#context;
    if (keep === undefined) return;
    try {
      const isSent = (name: string): boolean => this.#shipping.sending === name;
      for (const name of await keepNewest(store, vm, protectPrefix, keep, isSent)) {
        this.#tell({ event: 'removed', name, from: 'store' });
      }
      this.#works('retention');
    } catch (error) {
      this.#failed('retention', error);
    }
  }

  /** Requirement D8: what has been sent is committed, and a new log collects the next interval. */
  async #commit({ manifest }: CheckpointEntry): Promise<void> {
    const { store, vm, ledger, commitBytes } = this.#context;
    if (commitBytes === undefined || manifest === undefined) return;
    const logs = new Set(manifest.disks.flatMap(({ redo }) => redo));
    const bytes = manifest.files.reduce(
      (sum, file) => sum + (logs.has(file.path) ? file.bytes : 0),
      0,
    );
    if (logs.size === 0 || bytes < commitBytes) return;
    try {
      // Checkpoints stand on the parent, so it is a copy that becomes the new one.
      const done = await this.#exclusively(() =>
        commitAll(store, vm, { copy: true }, { signal: this.#signal }),
      );
      for (const { disk, logs: count } of done.filter((one) => one.logs > 0)) {
        this.#tell({ event: 'committed', disk, logs: count });
      }
      ledger.committed();
      this.#works('commit');
    } catch (error) {
      if (!this.#signal.aborted) this.#failed('commit', error);
    }
  }

  #exclusively<T>(work: () => Promise<T>): Promise<T> {
    const done = this.#turn.then(work);
    this.#turn = done.catch(() => undefined); // told to whoever asked for it
    return done;
  }

  #tell(event: VmEvent): void {
    this.#context.tell({ vm: this.#context.vm, ...event });
  }

  #failed(step: ProtectionStep, failure: unknown): void {
    const { code, message } = toCkptError(failure);
    if (!this.#context.ledger.failed(step, message)) return;
    this.#tell({ event: 'failed', step, code, message });
  }

  #works(step: ProtectionStep): void {
    if (this.#context.ledger.works(step)) this.#tell({ event: 'works', step });
  }
}
