/**
 * A VM that runs before the checkpoint it goes on from has come from another host, and what it knows of that
 * (requirement D9). What brings it is src/transfer/arrival.ts.
 *
 * Until all has come, and has been published here, the VM cannot be taken a checkpoint of: that would refer to what is
 * not there. Its disks are marked as arriving, and it has no configuration in the store: if it ends before, nothing can
 * start from disks with holes in them, and what the VM had before, if anything, is as it was.
 */
import { setTimeout } from 'node:timers/promises';
import createDebug from 'debug';
import type { Store } from '../checkpoint/store.js';
import { CkptError, toCkptError } from '../errors.js';
import type { MachineStatus, RestoreProgress } from '../native.js';
import type { ArrivingStatus, VmConfig } from '../types.js';
import { keepRestoredDisks, returnReplacedDisks, settleArrivedDisks } from './disks.js';

const debug = createDebug('ckptfs:vm');
const startPollMs = 5;
const loadPollMs = 100;

/** A checkpoint that is coming, as its VM needs it. */
export interface Arriving {
  status(): ArrivingStatus;
  /** The guest runs: now also what nobody waits for may come. */
  runs(): void;
  /** All that the guest had in memory has been read, and was whole: it may be published. */
  mayPublish(): void;
  /** Resolves when the checkpoint is published here, durably. DAMAGED: it is not what was sent; CANCELLED after end(). */
  readonly whole: Promise<void>;
  /** Tries again at once what waits for its time. */
  retry(): void;
  /** Whoever waits for what has not come is told that it will not. */
  fail(): void;
  /** Ends it; what has come is kept for the next attempt. */
  end(): Promise<void>;
}

interface ArrivingVm {
  store: Store;
  config: VmConfig;
  /** Of the memory that it goes on from. */
  progress(): RestoreProgress | undefined;
  /** 'failed': the guest waits for memory that cannot be read. */
  state(): MachineStatus['state'];
  /** All has come: it is a VM like any other. */
  onWhole(): void;
  /** What it ran from is not what was sent: it must not go on. */
  onBroken(error: CkptError): void;
}

export class VmArrival {
  #isWhole = false;
  #isEnding = false;
  readonly #settled: Promise<void>;

  constructor(
    private readonly arriving: Arriving,
    private readonly vm: ArrivingVm,
  ) {
    this.#settled = this.#follow().catch((error: unknown) => {
      const { code, message, data } = toCkptError(error);
      debug('%s: %s', vm.config.name, message);
      if (code !== 'CANCELLED') vm.onBroken(new CkptError(code, message, data, { cause: error }));
    });
  }

  /** Undefined when all has come. */
  status(): ArrivingStatus | undefined {
    return this.#isWhole ? undefined : this.arriving.status();
  }

  /** Why no checkpoint can be taken, nor work be done on the disks; undefined when they can. */
  obstacle(): string | undefined {
    const status = this.status();
    if (!status) return undefined;
    const { doneBytes, totalBytes } = status;
    return `the checkpoint that it goes on from is still arriving (${doneBytes} of ${totalBytes} bytes)`;
  }

  /** False: there is nothing to wait for. */
  retry(): boolean {
    if (!this.#isWhole) this.arriving.retry();
    return !this.#isWhole;
  }

  /** Resolves when all has come, or never will. */
  settled(): Promise<void> {
    return this.#settled;
  }

  /** Nobody of the VM is to wait any more: before its machine is closed. */
  fail(): void {
    this.#isEnding = true;
    if (!this.#isWhole) this.arriving.fail();
  }

  /** After the machine was closed; what is not whole is not the VM's. */
  async end(): Promise<void> {
    await this.arriving.end();
    await this.#settled;
    if (!this.#isWhole) await returnReplacedDisks(this.vm.store, this.vm.config.name);
  }

  async #follow(): Promise<void> {
    const { store, config } = this.vm;
    void this.#watch();
    await this.arriving.whole;
    await settleArrivedDisks(store, config.name);
    await store.writeConfig(config.name, config);
    await keepRestoredDisks(store, config.name);
    this.#isWhole = true;
    this.vm.onWhole();
  }

  async #watch(): Promise<void> {
    const holds = async (
      ms: number,
      what: (progress: RestoreProgress) => boolean,
    ): Promise<boolean> => {
      for (;;) {
        if (this.#isEnding) return false;
        const progress = this.vm.progress();
        if (progress && what(progress)) return true;
        await setTimeout(ms, undefined, { ref: false });
      }
    };
    // One that fails before its first instruction is in no hurry either.
    const { vm } = this;
    const hasBegun = (progress: RestoreProgress): boolean =>
      progress.firstInstructionUs > 0 || vm.state() === 'failed';
    if (await holds(startPollMs, hasBegun)) this.arriving.runs();
    // When the guest has ended nobody needs what cannot be loaded, and so nobody tries again.
    const isOver = ({ done, error }: RestoreProgress): boolean =>
      done || (error !== '' && vm.state() === 'ended');
    if (!(await holds(loadPollMs, isOver))) return;
    const error = vm.progress()?.error ?? '';
    if (error === '') this.arriving.mayPublish();
    else vm.onBroken(new CkptError('DAMAGED', error));
  }
}
