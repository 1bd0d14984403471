/**
 * The stall of a restored guest: what the loading of memory costs a guest of 1 GiB that works at random places of
 * 256 MiB from its first moment on, in ms of its own pace with all memory there (lost guest work, progress.ts),
 * from the call of start() until that pace is reached, with the rest of memory loaded or not. Where it is not reached
 * in time, the stall is a lower bound and the row is not met.
 *
 * Page by page in address order is what it is compared with: the same system with memory blocks and IO blocks of
 * one page, and a checkpoint of the guest at rest, which knows nothing of the order in which memory will be
 * needed. Its guest begins its work with a line on the console, a few ms after start().
 */
import { execFile } from 'node:child_process';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { CheckpointEntry } from '../src/checkpoint/checkpoints.js';
import type { Store } from '../src/checkpoint/store.js';
import type { Geometry } from '../src/native.js';
import { Ckptfs } from './ckptfs.js';
import { gib, type MemoryGuest, type Workload } from './guest.js';
import { baselineRate, costOf, sleep, steady } from './progress.js';
import { median, noted, row, type Row, rowsOf, type Target } from './row.js';

const bench = 'restore';
const workingMib = 256;
const workload: Workload = { memoryBytes: gib, filledMib: 800 };
const pageByPage: Geometry = { pageBytes: 4096, pagesPerBlock: 1, blocksPerIoBlock: 1 };
const pollMs = 5;
const longestStallMs = 60_000;
const run = promisify(execFile);

/** Where the files of the checkpoint are when it is restored. */
type Source = 'page cache' | 'disk';

interface Saved {
  entry: CheckpointEntry;
  progressAddress: number;
  pace: number;
}

/** A checkpoint of the guest at work, or at rest after it. */
async function save(store: Store, name: string, geometry?: Geometry): Promise<Saved> {
  const ckptfs = await Ckptfs.start(store, name, workload, geometry ? { geometry } : {});
  try {
    const guest = await ckptfs.guest();
    await guest.write('random', workingMib);
    await steady(guest);
    const pace = await baselineRate(guest);
    if (geometry) await guest.stop();
    const { entry } = await ckptfs.save({ codec: 'none', full: true });
    return { entry, progressAddress: guest.progressAddress, pace };
  } finally {
    await ckptfs.close();
  }
}

/** Takes the files of a checkpoint out of the page cache, as if the host had just been started. */
async function evict(directory: string): Promise<void> {
  for (const name of await readdir(directory)) {
    await run('dd', [`if=${join(directory, name)}`, 'iflag=nocache', 'count=0', 'status=none']);
  }
}

interface Stall {
  ms: number;
  back: boolean;
}

/** The stall of each of some restores, one after the other. */
async function stalls(
  store: Store,
  saved: Saved,
  lazy: boolean,
  repetitions: number,
  from: Source,
): Promise<Stall[]> {
  const found: Stall[] = [];
  for (let i = 0; i < repetitions; i++) {
    if (from === 'disk') await evict(saved.entry.directory);
    const preparing = performance.now();
    const ckptfs = await Ckptfs.restore(store, saved.entry, lazy);
    const preparedMs = performance.now() - preparing;
    try {
      const guest = ckptfs.guestAt(saved.progressAddress);
      const begin = async (): Promise<void> => {
        await ckptfs.vm.start();
        if (saved.entry.vm === restName) await guest.write('random', workingMib);
      };
      const cost = await costOf(progressSince(guest), saved.pace, begin, longestStallMs);
      // An eager restore has stalled its guest before it runs.
      found.push({ ms: cost.lostMs + (lazy ? 0 : preparedMs), back: cost.back });
      // What a restore learns it keeps at its end.
      while (!ckptfs.vm.restoreProgress()?.done) await sleep(pollMs);
    } finally {
      await ckptfs.close();
    }
  }
  return found;
}

/** The counter reads 0 until its block is loaded: no step has been seen until then. */
function progressSince(guest: MemoryGuest): { steps(): number } {
  let first: number | undefined;
  return {
    steps: () => {
      const now = guest.steps();
      if (now > 0) first ??= now;
      return now - (first ?? now);
    },
  };
}

const workName = 'stall';
const restName = 'stall-by-page';

async function stallFrom(store: Store, from: Source, repetitions: number): Promise<Row[]> {
  return rowsOf(bench, `stall of the guest, from the ${from}`, async () => {
    const atWork = await save(store, workName);
    const atRest = await save(store, restName, pageByPage);
    const byPage = await stalls(store, atRest, true, repetitions, from);
    const lazy = await stalls(store, atWork, true, repetitions, from);
    const eager = await stalls(store, atWork, false, repetitions, from);
    await store.removeVm(workName);
    await store.removeVm(restName);
    const middle = (of: readonly Stall[]) => median(of.map(({ ms }) => ms));
    const peer = { name: 'page by page in address order', value: middle(byPage) };
    const rowOf = (what: string, of: readonly Stall[], target: Target): Row[] => {
      const name = `1 GiB, working set of 256 MiB, from the ${from}: stall, ${what}`;
      const notBack = of.filter(({ back }) => !back).length;
      const all = [
        ...(notBack > 0
          ? [`pace not reached in ${notBack} of ${of.length} runs: a lower bound`]
          : []),
        ...(byPage.every(({ back }) => back)
          ? []
          : ['pace not reached page by page: a lower bound']),
      ];
      return noted([row(bench, name, middle(of), 'ms', target, peer)], all, notBack > 0);
    };
    return [
      ...rowOf('first restore', lazy.slice(0, 1), { ratioAtMost: 0.1 }),
      ...(lazy.length > 1 ? rowOf('later restores', lazy.slice(1), { ratioAtMost: 0.1 }) : []),
      ...rowOf('eager restore', eager, {}),
    ];
  });
}

export async function stall(store: Store, repetitions: number): Promise<Row[]> {
  return [
    ...(await stallFrom(store, 'disk', repetitions)),
    ...(await stallFrom(store, 'page cache', repetitions)),
  ];
}
