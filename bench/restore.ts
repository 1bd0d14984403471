/**
 * Restoring the Linux guest of the benchmarks: time to its first instruction by size of memory, speed of a
 * complete restore, and the stall of a guest that works in 256 MiB right after. Files are in the page cache.
 */
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { CheckpointEntry } from '../src/checkpoint/checkpoints.js';
import type { Store } from '../src/checkpoint/store.js';
import type { Codec } from '../src/native.js';
import { temporaryStore } from '../test/support/guests.js';
import { Ckptfs } from './ckptfs.js';
import { fullGuest, gib, mib } from './guest.js';
import { sizeName } from './pause.js';
import { sleep, steady } from './progress.js';
import { Qemu } from './qemu.js';
import { median, percentile, row, type Row, rowsOf } from './row.js';
import { stall } from './stall.js';

const bench = 'restore';
const pollMs = 2;

interface Times {
  firstMs: number;
  completeMs: number;
}

/** Restores once, until the first instruction, or until all memory is there. */
async function restoreOnce(
  store: Store,
  entry: CheckpointEntry,
  lazy: boolean,
  complete: boolean,
): Promise<Times> {
  const ckptfs = await Ckptfs.restore(store, entry, lazy);
  try {
    await ckptfs.vm.start();
    for (;;) {
      const progress = ckptfs.vm.restoreProgress();
      if (progress && progress.firstInstructionUs > 0 && (progress.done || !complete)) {
        return {
          firstMs: progress.firstInstructionUs / 1000,
          completeMs: progress.completeUs / 1000,
        };
      }
      await sleep(pollMs);
    }
  } finally {
    await ckptfs.close();
  }
}

/** A checkpoint by each codec of a guest that fills its memory. */
async function makeCheckpoints(
  store: Store,
  name: string,
  bytes: number,
  codecs: Codec[],
): Promise<CheckpointEntry[]> {
  const workload = fullGuest(bytes);
  const ckptfs = await Ckptfs.start(store, name, workload);
  try {
    const guest = await ckptfs.guest();
    await guest.write('random', workload.filledMib);
    await steady(guest);
    const entries: CheckpointEntry[] = [];
    for (const codec of codecs) entries.push((await ckptfs.save({ codec, full: true })).entry);
    return entries;
  } finally {
    await ckptfs.close();
  }
}

async function firstInstruction(store: Store, bytes: number, repetitions: number): Promise<Row[]> {
  const size = sizeName(bytes);
  return rowsOf(bench, `${size}: first instruction`, async () => {
    const name = `first-${bytes / mib}`;
    const [entry] = await makeCheckpoints(store, name, bytes, ['lz4']);
    try {
      if (!entry) throw new Error('no checkpoint');
      const ms: number[] = [];
      for (let i = 0; i < repetitions; i++) {
        ms.push((await restoreOnce(store, entry, true, false)).firstMs);
      }
      return [
        row(bench, `${size}, lazy: first instruction`, median(ms), 'ms', { atMost: 10 }),
        row(bench, `${size}, lazy: first instruction, longest`, percentile(ms, 1), 'ms'),
      ];
    } finally {
      await store.removeVm(name);
    }
  });
}

async function completeRestore(store: Store, bytes: number, repetitions: number): Promise<Row[]> {
  return rowsOf(bench, 'complete restore', async () => {
    const codecs = ['none', 'lz4'] satisfies Codec[];
    const entries = await makeCheckpoints(store, 'complete', bytes, codecs);
    const rows: Row[] = [];
    for (const [i, codec] of codecs.entries()) {
      const entry = entries[i];
      if (!entry) continue;
      const of = async (lazy: boolean): Promise<Times> => {
        const times: Times[] = [];
        for (let n = 0; n < repetitions; n++) {
          times.push(await restoreOnce(store, entry, lazy, true));
        }
        return {
          firstMs: median(times.map((t) => t.firstMs)),
          completeMs: median(times.map((t) => t.completeMs)),
        };
      };
      const [lazy, eager] = [await of(true), await of(false)];
      const speed = (times: Times) => fullGuest(bytes).filledMib / 1024 / (times.completeMs / 1000);
      const name = (what: string) => `${sizeName(bytes)}, ${codec}: ${what}`;
      rows.push(
        row(
          bench,
          name('complete restore, the guest waiting for it'),
          speed(eager),
          'GiB/s',
          { atLeast: 1.5 },
          { name: 'lazy, under its random writer', value: speed(lazy) },
        ),
        row(
          bench,
          name('first instruction, lazy'),
          lazy.firstMs,
          'ms',
          {},
          { name: 'eager', value: eager.firstMs },
        ),
      );
    }
    await store.removeVm('complete');
    return rows;
  });
}

/** For orientation: QEMU has no lazy restore; -incoming loads everything first. */
async function qemuIncoming(store: Store, bytes: number, repetitions: number): Promise<Row[]> {
  return rowsOf(bench, 'QEMU -incoming', async () => {
    const workload = fullGuest(bytes);
    const file = join(store.root, 'qemu.state');
    try {
      const source = await Qemu.start(workload);
      try {
        await source.guest();
        await source.save('stopped', file);
      } finally {
        await source.close();
      }
      const ms: number[] = [];
      for (let i = 0; i < repetitions; i++) {
        const began = performance.now();
        const qemu = await Qemu.start(workload, file);
        try {
          await qemu.resumed();
          ms.push(performance.now() - began);
        } finally {
          await qemu.close();
        }
      }
      const name = `${sizeName(bytes)}: QEMU -incoming, from its start until the guest runs`;
      return [row(bench, name, median(ms), 'ms')];
    } finally {
      await rm(file, { force: true });
    }
  });
}

/** All rows; `quick` only shows that they can be made. */
export async function restore(quick: boolean): Promise<Row[]> {
  const { store, remove } = await temporaryStore();
  const sizes = quick ? [512 * mib] : [512 * mib, 2 * gib, 8 * gib];
  const repetitions = quick ? 1 : 5;
  try {
    const rows: Row[] = [];
    for (const bytes of sizes) {
      rows.push(...(await firstInstruction(store, bytes, quick ? 2 : 7)));
    }
    rows.push(...(await completeRestore(store, quick ? gib / 2 : 2 * gib, repetitions)));
    rows.push(...(await stall(store, quick ? 1 : 3)));
    rows.push(...(await qemuIncoming(store, quick ? gib / 2 : 2 * gib, quick ? 1 : 3)));
    return rows;
  } finally {
    await remove();
  }
}
