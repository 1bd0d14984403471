/**
 * Cycles of checkpoint, restore and verification under load, for as long as one likes.
 *
 * Some guests run side by side in this process. Each goes round by itself: it runs for a while, is checkpointed
 * with options chosen at random, and now and then its plug is pulled and it goes on from one of its
 * checkpoints, of which another may be taken at once, while memory is still being loaded.
 *
 *   linux    the self-checking writer with memory and a journal on a disk: every run to its end must print the
 *            sum of a run that nothing interrupted
 *   writer-ENGINE   a bare-metal random writer on two harts for each trace engine: every checkpoint is compared
 *            byte for byte with a copy of RAM taken in its pause, many a restored RAM with its checkpoint
 *
 * Checkpoints are removed as it goes, any of them, not the oldest alone, so that what is left must stand by itself.
 * The first fault ends it. At the end everything that is left is verified.
 */
import { readFile } from 'node:fs/promises';
import {
  type CheckpointEntry,
  findCheckpoint,
  listAllCheckpoints,
  listCheckpoints,
  removeCheckpoint,
} from '../../src/checkpoint/checkpoints.js';
import { walkTree } from '../../src/checkpoint/files.js';
import type { Store } from '../../src/checkpoint/store.js';
import { verifyCheckpoint } from '../../src/checkpoint/verify.js';
import {
  type ByteSource,
  codecs,
  drainModes,
  openMemoryImage,
  traceNames,
} from '../../src/native.js';
import type { CheckpointRequest, VmConfigInput } from '../../src/types.js';
import { Vm } from '../../src/vmm/vm.js';
import type { CkptError } from '../../src/errors.js';
import { bareConfig, linuxGuest, Watch } from './guests.js';

export interface SoakOptions {
  minutes: number;
  /** The same seed makes the same choices. */
  seed: number;
  /** What all checkpoints together may take. */
  limitBytes: number;
  say: (line: string) => void;
}

/** What was done; everything in it went well. */
export interface SoakTotals {
  checkpoints: number;
  incremental: number;
  whileRestoring: number;
  lazyRestores: number;
  eagerRestores: number;
  comparedWithPause: number;
  runsToTheEnd: number;
  removed: number;
  verified: number;
}

const mib = 2 ** 20;
const kept = 6;
const longestRunMs = 4000;
const shortestRunMs = 300;
const sayEveryMs = 60_000;
const limitedBytesPerSecond = 64 * mib;
const longestEndMs = 600_000;

/** One guest, and what its lane of the soak knows of it. */
interface Lane {
  name: string;
  config: VmConfigInput;
  /** RAM is compared with a copy that is taken in each pause. */
  oracle: boolean;
  /** What the guest prints at the end of its work; without it, it works for ever. */
  passed?: RegExp;
}

/** Numbers in [0, 1) that follow from the seed (xorshift32). */
function randomNumbers(seed: number): () => number {
  let x = seed | 1;
  return () => {
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    return (x >>> 0) / 2 ** 32;
  };
}

/** The first difference between two sources of the same size, or between a source and bytes. */
async function firstDifference(a: ByteSource, b: ByteSource | Buffer): Promise<number | undefined> {
  const [left, right] = [Buffer.alloc(4 * mib), Buffer.alloc(4 * mib)];
  for (let position = 0; position < a.bytes;) {
    const length = await a.read(left, position);
    const other = Buffer.isBuffer(b)
      ? b.subarray(position, position + length)
      : right.subarray(0, await b.read(right.subarray(0, length), position));
    if (length === 0 || !left.subarray(0, length).equals(other)) return position;
    position += length;
  }
  return undefined;
}

class Soak {
  readonly totals: SoakTotals = {
    checkpoints: 0,
    incremental: 0,
    whileRestoring: 0,
    lazyRestores: 0,
    eagerRestores: 0,
    comparedWithPause: 0,
    runsToTheEnd: 0,
    removed: 0,
    verified: 0,
  };
  readonly #store: Store;
  readonly #options: SoakOptions;
  readonly #random: () => number;
  /** What a guest prints at its end when nothing interrupts it. */
  readonly #expected = new Map<Lane, string>();
  /** Ends that were printed before a checkpoint, by VM@NAME: restored, a guest does not print them again. */
  readonly #printed = new Map<string, string>();
  #end = 0;
  #failed = false;
  #number = 0;

  constructor(store: Store, options: SoakOptions) {
    this.#store = store;
    this.#options = options;
    this.#random = randomNumbers(options.seed);
  }

  async run(lanes: Lane[]): Promise<SoakTotals> {
    const report = setInterval(() => this.#options.say(totalsLine(this.totals)), sayEveryMs);
    try {
      for (const lane of lanes) {
        if (lane.passed) this.#expected.set(lane, await this.#runUninterrupted(lane));
      }
      this.#end = performance.now() + this.#options.minutes * 60_000;
      const ends = await Promise.allSettled(
        lanes.map((lane) =>
          this.#drive(lane).catch((error: unknown) => {
            this.#failed = true;
            throw new Error(`${lane.name}: ${String(error)}`, { cause: error });
          }),
        ),
      );
      for (const end of ends) if (end.status === 'rejected') throw end.reason;
      await this.#verifyAll();
    } finally {
      clearInterval(report);
    }
    return this.totals;
  }

  get #over(): boolean {
    return this.#failed || performance.now() >= this.#end;
  }

  #chance(share: number): boolean {
    return this.#random() < share;
  }

  #pick<T>(from: readonly T[]): T {
    const chosen = from[Math.floor(this.#random() * from.length)];
    if (chosen === undefined) throw new Error('nothing to choose from');
    return chosen;
  }

  /** One guest from its boot to the end of the soak. */
  async #drive(lane: Lane): Promise<void> {
    const expected = this.#expected.get(lane);
    let vm = await Vm.create(this.#store, { ...lane.config, name: lane.name });
    let before: string | undefined;
    try {
      let watch = new Watch(vm);
      await vm.start();
      while (!this.#over) {
        await this.#runAWhile(watch);
        if (watch.exit === undefined) {
          await this.#checkpoint(lane, vm, watch, before);
          await this.#prune(lane);
          if (this.#chance(0.5)) continue;
        } else {
          this.#checkEnd(lane, watch, before, expected);
        }
        await vm.close(); // as if its plug were pulled
        const entry = await this.#choose(lane);
        before = this.#printed.get(`${lane.name}@${entry.name}`);
        vm = await this.#restore(lane, entry);
        watch = new Watch(vm);
        await vm.start();
        if (this.#chance(0.3)) {
          if (vm.restoreProgress()?.done === false) this.totals.whileRestoring++;
          await this.#checkpoint(lane, vm, watch, before);
        }
      }
      if (expected === undefined || this.#failed) return;
      await watch.ended(longestEndMs);
      this.#checkEnd(lane, watch, before, expected);
    } finally {
      await vm.close();
    }
  }

  async #runUninterrupted(lane: Lane): Promise<string> {
    const name = `${lane.name}-straight`;
    const vm = await Vm.create(this.#store, { ...lane.config, name });
    try {
      const watch = new Watch(vm);
      await vm.start();
      await watch.ended(longestEndMs);
      const line = endOf(lane, watch);
      if (line !== undefined) return line;
      throw new Error(`the uninterrupted guest failed: ${watch.text.slice(-400)}`);
    } finally {
      await vm.close();
      await this.#store.removeVm(name);
    }
  }

  /** Lets the guest run for a while, or to its end; what it reports of itself must be good. */
  async #runAWhile(watch: Watch): Promise<void> {
    const end = performance.now() + shortestRunMs + this.#random() * (longestRunMs - shortestRunMs);
    while (performance.now() < end && watch.exit === undefined) {
      await new Promise((resolve) => setTimeout(resolve, 50));
      if (watch.error) throw watch.error;
      const failure = /FAIL[^\r\n]*/.exec(watch.text);
      if (failure) throw new Error(`the guest found a fault: ${failure[0]}`);
    }
  }

  #checkEnd(lane: Lane, watch: Watch, before?: string, expected?: string): void {
    const line = endOf(lane, watch) ?? before;
    if (line === undefined) throw new Error(`the guest ended early: ${watch.text.slice(-400)}`);
    if (line !== expected) throw new Error(`it ended with ${line}, uninterrupted with ${expected}`);
    this.totals.runsToTheEnd++;
  }

  #request(): CheckpointRequest & { name: string } {
    return {
      name: `c${this.#number++}`,
      codec: this.#pick(codecs),
      drain: this.#pick(drainModes),
      full: this.#chance(0.25),
      suspend: this.#chance(0.1),
      ...(this.#chance(0.1) ? { limitBytesPerSecond: limitedBytesPerSecond } : {}),
      wait: true,
    };
  }

  async #checkpoint(lane: Lane, vm: Vm, watch: Watch, before?: string): Promise<void> {
    const request = this.#request();
    let parentId: string | null | undefined;
    try {
      ({ parentId } = await vm.checkpoint(request, { oracle: lane.oracle }));
    } catch (error) {
      if ((error as CkptError).code !== 'USAGE') throw error;
      // The guest came to its end first; whether that was right is looked at later.
      await watch.ended();
      return;
    }
    const printed = endOf(lane, watch) ?? before;
    if (printed !== undefined) this.#printed.set(`${lane.name}@${request.name}`, printed);
    if (request.suspend) vm.resume();
    this.totals.checkpoints++;
    if (typeof parentId === 'string') this.totals.incremental++;
    if (!lane.oracle) return;
    const { directory } = await findCheckpoint(this.#store, `${lane.name}@${request.name}`);
    const image = await openMemoryImage(directory);
    const at = await firstDifference(image, vm.oracle());
    image.close();
    if (at !== undefined) {
      throw new Error(`${JSON.stringify(request)} differs from the pause after byte ${at}`);
    }
    this.totals.comparedWithPause++;
  }

  /** From the newest checkpoint, so that the guest comes to its end some day, or from any. */
  async #choose(lane: Lane): Promise<CheckpointEntry> {
    const entries = await listCheckpoints(this.#store, lane.name);
    return (this.#chance(0.6) ? entries.at(-1) : undefined) ?? this.#pick(entries);
  }

  async #restore(lane: Lane, entry: CheckpointEntry): Promise<Vm> {
    const lazy = this.#chance(0.7);
    const vm = await Vm.restore(this.#store, entry, { lazy });
    this.totals[lazy ? 'lazyRestores' : 'eagerRestores']++;
    // Reading it loads it, so that this is for some of them only.
    if (!lane.oracle || (lazy && this.#chance(0.7))) return vm;
    try {
      const [image, memory] = [await openMemoryImage(entry.directory), vm.memory()];
      const at = await firstDifference(image, memory);
      image.close();
      memory.close();
      if (at === undefined) return vm;
      throw new Error(`RAM restored from ${entry.name} differs after byte ${at}`);
    } catch (error) {
      await vm.close();
      throw error;
    }
  }

  /** Removes checkpoints chosen at random until few enough are left, in number and in bytes. */
  async #prune(lane: Lane): Promise<void> {
    for (;;) {
      const entries = await listCheckpoints(this.#store, lane.name);
      const bytes = await checkpointBytesOf(entries);
      if (entries.length <= 1) return;
      if (entries.length <= kept && bytes <= this.#options.limitBytes / 4) return;
      await removeCheckpoint(this.#store, this.#pick(entries));
      this.totals.removed++;
    }
  }

  async #verifyAll(): Promise<void> {
    for (const entry of await listAllCheckpoints(this.#store)) {
      const damage = await verifyCheckpoint(entry.directory);
      if (damage.length > 0) {
        throw new Error(`${entry.vm}@${entry.name} is damaged: ${JSON.stringify(damage[0])}`);
      }
      this.totals.verified++;
    }
  }
}

/** What the guest has printed of its end, in this run. */
function endOf(lane: Lane, watch: Watch): string | undefined {
  return lane.passed?.exec(watch.text)?.[1];
}

/** At most what the checkpoints take: files that they share are counted once for each. */
async function checkpointBytesOf(entries: readonly CheckpointEntry[]): Promise<number> {
  let bytes = 0;
  for (const { directory } of entries) {
    for (const size of (await walkTree(directory)).files.values()) bytes += size;
  }
  return bytes;
}

/** One line that says how much was done. */
export function totalsLine(totals: SoakTotals): string {
  return (
    `soak: ${totals.checkpoints} checkpoints (${totals.incremental} incremental, ` +
    `${totals.whileRestoring} during a restore), ` +
    `${totals.lazyRestores} lazy and ${totals.eagerRestores} eager restores, ` +
    `${totals.comparedWithPause} compared with their pause, ${totals.runsToTheEnd} runs to the end, ` +
    `${totals.removed} removed, ${totals.verified} left and verified`
  );
}

/** Runs the soak in a store; rejects with the first fault. */
export async function soak(store: Store, options: SoakOptions): Promise<SoakTotals> {
  const cmdline = (await readFile(linuxGuest.cmdline, 'utf8')).trim();
  return new Soak(store, options).run([
    {
      name: 'linux',
      config: {
        kernel: linuxGuest.kernel,
        initrd: linuxGuest.initrd,
        append: `${cmdline} ckptfs.mode=writer ckptfs.mib=24 ckptfs.rounds=24`,
        memoryBytes: 128 * mib,
        cpus: 2,
        disks: [{ path: linuxGuest.disk }],
      },
      oracle: false,
      passed: /ckptfs-guest: (PASS [^\r\n]+)\r?\n/,
    },
    ...traceNames.map((trace) => ({
      name: `writer-${trace}`,
      config: bareConfig('random-writer', 'harts=2 mib=48', {
        cpus: 2,
        memoryBytes: 64 * mib,
        trace,
      }),
      oracle: true,
    })),
  ]);
}
