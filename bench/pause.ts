/**
 * The pause of a live checkpoint by size of memory, under a random writer over nearly all of it, beside QEMU's
 * background-snapshot on the same guest. One save in ten runs to its end; the others are cancelled a little
 * after the guest runs again, which leaves their pause as it is and lets there be many of them. Those of
 * QEMU cannot be cancelled (qemu.ts): they go to /dev/null, as many as a limit of time allows. QEMU's first is
 * shown too: its RAM is in huge pages then, which the first snapshot splits.
 */
import type { Store } from '../src/checkpoint/store.js';
import { Ckptfs } from './ckptfs.js';
import { fullGuest, gib, mib, type Workload } from './guest.js';
import { sleep, steady } from './progress.js';
import { Qemu } from './qemu.js';
import { median, percentile, row, type Row, rowsOf } from './row.js';

const bench = 'checkpoint';
const completeEvery = 10;
const cancelAfterMs = 100;
/** Long enough for the writer to reach nearly every block again. */
const betweenMs = 400;
const qemuLimitMs = 40_000;
const qemuAtLeast = 3;

export function sizeName(bytes: number): string {
  return bytes >= gib ? `${bytes / gib} GiB` : `${bytes / mib} MiB`;
}

interface Pauses {
  ms: number[];
  armMs?: number;
}

async function ours(store: Store, workload: Workload, repetitions: number): Promise<Pauses> {
  const ckptfs = await Ckptfs.start(store, `pause-${workload.filledMib}`, workload);
  try {
    const guest = await ckptfs.guest();
    await guest.write('random', workload.filledMib);
    await steady(guest);
    const ms: number[] = [];
    let armMs: number | undefined;
    for (let i = 0; i < repetitions; i++) {
      if (i % completeEvery === 0) {
        const { pauseUs, entry } = await ckptfs.save({ codec: 'none' });
        armMs ??= (entry.manifest?.stats.phasesUs.arm ?? 0) / 1000;
        ms.push(pauseUs / 1000);
        await ckptfs.remove(entry);
      } else {
        ms.push(await ckptfs.pauseOf({ codec: 'none' }, cancelAfterMs));
      }
      await sleep(betweenMs);
    }
    return { ms, ...(armMs === undefined ? {} : { armMs }) };
  } finally {
    await ckptfs.close();
    await store.removeVm(ckptfs.vm.name);
  }
}

async function qemus(workload: Workload, repetitions: number): Promise<Pauses> {
  const qemu = await Qemu.start(workload);
  try {
    const guest = await qemu.guest();
    await guest.write('random', workload.filledMib);
    await steady(guest);
    const ms: number[] = [];
    const end = performance.now() + qemuLimitMs;
    while (ms.length < qemuAtLeast || (ms.length < repetitions && performance.now() < end)) {
      ms.push((await qemu.save('background', '/dev/null')).pauseMs);
      await sleep(betweenMs);
    }
    return { ms };
  } finally {
    await qemu.close();
  }
}

export async function pauses(store: Store, sizes: number[], repetitions: number): Promise<Row[]> {
  const rows: Row[] = [];
  const medians: number[] = [];
  for (const bytes of sizes) {
    const size = sizeName(bytes);
    rows.push(
      ...(await rowsOf(bench, `${size}: pause`, async () => {
        const workload = fullGuest(bytes);
        const mine = await ours(store, workload, repetitions);
        let why: string | undefined;
        const peer = await qemus(workload, repetitions).catch((error: unknown) => {
          why = String(error);
          return undefined;
        });
        const of = (share: number) => ({
          name: `QEMU background-snapshot${peer ? `, ${peer.ms.length} of them` : ''}`,
          value: peer && percentile(peer.ms, share),
          why,
        });
        medians.push(median(mine.ms));
        return [
          row(
            bench,
            `${size}: pause, p50 of ${repetitions}`,
            median(mine.ms),
            'ms',
            { atMost: 0.5, ratioAtMost: 1 },
            of(0.5),
          ),
          row(
            bench,
            `${size}: pause, p99`,
            percentile(mine.ms, 0.99),
            'ms',
            { atMost: 2 },
            of(0.99),
          ),
          row(
            bench,
            `${size}: pause, the first`,
            mine.ms[0] ?? NaN,
            'ms',
            {},
            {
              name: "QEMU's first",
              value: peer?.ms[0],
              why,
            },
          ),
          row(bench, `${size}: of the first, arming`, mine.armMs ?? 0, 'ms'),
        ];
      })),
    );
  }
  if (medians.length === sizes.length) {
    const ratio = Math.max(...medians) / Math.min(...medians);
    rows.push(
      row(bench, 'pause: longest p50 by size / shortest', ratio, '×', {
        atMost: 1.5,
      }),
    );
  }
  return rows;
}
