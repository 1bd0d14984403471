/** The system under test, through its library: the memory workload as a VM of this process. */
import {
  type CheckpointEntry,
  findCheckpoint,
  removeCheckpoint,
} from '../src/checkpoint/checkpoints.js';
import type { Store } from '../src/checkpoint/store.js';
import { CkptError } from '../src/errors.js';
import type { Codec } from '../src/native.js';
import type { CheckpointSummary, VmConfigInput } from '../src/types.js';
import { Vm } from '../src/vmm/vm.js';
import { linuxGuest } from '../test/support/guests.js';
import { ConsoleText } from './console.js';
import { awaitFilled, commandLine, MemoryGuest, type Workload } from './guest.js';
import { sleep } from './progress.js';
import { GuestRam } from './ram.js';

export interface SaveOptions {
  codec: Codec;
  /** Not incremental, whatever an earlier checkpoint has. */
  full?: boolean;
}

export class Ckptfs {
  #ram: GuestRam | undefined;
  #saves = 0;

  private constructor(
    readonly store: Store,
    readonly vm: Vm,
    private readonly console: ConsoleText,
  ) {}

  static #of(store: Store, vm: Vm): Ckptfs {
    const console = new ConsoleText();
    vm.on('console', (data) => console.feed(data));
    vm.on('exit', () => console.end());
    vm.on('error', () => console.end());
    return new Ckptfs(store, vm, console);
  }

  static async start(
    store: Store,
    name: string,
    workload: Workload,
    options: VmConfigInput = {},
  ): Promise<Ckptfs> {
    const vm = await Vm.create(store, {
      name,
      kernel: linuxGuest.kernel,
      initrd: linuxGuest.initrd,
      append: commandLine(workload),
      memoryBytes: workload.memoryBytes,
      ...options,
    });
    const ckptfs = Ckptfs.#of(store, vm);
    try {
      await vm.start();
    } catch (error) {
      await ckptfs.close();
      throw error;
    }
    return ckptfs;
  }

  /** Restores in place; the guest does not run yet. */
  static async restore(store: Store, entry: CheckpointEntry, lazy: boolean): Promise<Ckptfs> {
    return Ckptfs.#of(store, await Vm.restore(store, entry, { lazy }));
  }

  /** The workload of a guest that boots, once it has filled its memory. */
  async guest(): Promise<MemoryGuest> {
    return this.guestAt(await awaitFilled(this.console));
  }

  /** The workload of a guest whose progress is known to be at `progressAddress`. */
  guestAt(progressAddress: number): MemoryGuest {
    this.#ram ??= GuestRam.own(this.vm.config.memoryBytes);
    return new MemoryGuest(this.#ram, progressAddress, this.console, (line) =>
      this.vm.consoleInput(Buffer.from(line)),
    );
  }

  /** A live checkpoint, to its end. */
  async save(options: SaveOptions): Promise<CheckpointSummary & { entry: CheckpointEntry }> {
    const name = `save-${this.#saves++}`;
    const summary = await this.vm.checkpoint({ ...options, name, wait: true });
    return { ...summary, entry: await findCheckpoint(this.store, `${this.vm.name}@${name}`) };
  }

  /** The pause in ms of a checkpoint that is cancelled `cancelAfterMs` after the guest runs again. */
  async pauseOf(options: SaveOptions, cancelAfterMs: number): Promise<number> {
    const cancel = new AbortController();
    let pauseUs: number | undefined;
    let cancelled = Promise.resolve();
    const request = { ...options, name: `pause-${this.#saves++}`, wait: true };
    try {
      const { name } = await this.vm.checkpoint(request, {
        signal: cancel.signal,
        onResumed: (summary) => {
          pauseUs = summary.pauseUs;
          cancelled = sleep(cancelAfterMs).then(() => cancel.abort());
        },
      });
      await this.remove(await findCheckpoint(this.store, `${this.vm.name}@${name}`));
    } catch (error) {
      if (!(error instanceof CkptError) || error.code !== 'CANCELLED') throw error;
    }
    await cancelled;
    if (pauseUs === undefined) throw new Error('a checkpoint ended without a pause');
    return pauseUs / 1000;
  }

  remove(entry: CheckpointEntry): Promise<void> {
    return removeCheckpoint(this.store, entry);
  }

  async close(): Promise<void> {
    this.#ram?.close();
    this.#ram = undefined;
    await this.vm.close();
  }
}
