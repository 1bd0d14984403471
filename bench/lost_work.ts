/**
 * Lost guest work of a live checkpoint, in seconds of each system's own pace before: a guest of 1 GiB that
 * writes to 512 MiB of it, evenly at random or skewed (Zipf, s = 0.99), beside QEMU's background-snapshot and
 * its stop, migrate, cont. Every save is a full one. Each background-snapshot is the first of a new QEMU, whose
 * RAM is in huge pages until then. Also what the trace engines cost, by which the default is chosen.
 *
 * A row whose pace did not come back in time, so that the loss is a lower bound, is not met; one whose pace was
 * not steady before says so.
 */
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { CheckpointEntry } from '../src/checkpoint/checkpoints.js';
import type { Store } from '../src/checkpoint/store.js';
import { type Codec, traceNames } from '../src/native.js';
import type { VmConfigInput } from '../src/types.js';
import { Ckptfs } from './ckptfs.js';
import { gib, mib, type MemoryGuest, type Workload } from './guest.js';
import { baselineRate, type Cost, costOf, steady } from './progress.js';
import { Qemu } from './qemu.js';
import { median, noted, row, type Row, rowsOf } from './row.js';

const bench = 'checkpoint';
const writtenMib = 512;
const workload: Workload = { memoryBytes: gib, filledMib: 800 };
type Pattern = 'random' | 'zipf';
const patterns: Pattern[] = ['random', 'zipf'];

/** What some runs of one kind cost, in the middle. */
interface Measured {
  lostS: number;
  stallMs: number;
  pauseMs: number;
  totalS: number;
  stepsPerSecond: number;
  runs: number;
  /** Of these, whose pace was not steady before. */
  unsteady: number;
  /** Of these, whose pace did not come back. */
  notBack: number;
}

interface Saved {
  pauseMs: number;
  totalMs: number;
}

interface Run extends Cost<Saved> {
  stepsPerSecond: number;
  wasSteady: boolean;
}

async function runOnce(guest: MemoryGuest, save: () => Promise<Saved>): Promise<Run> {
  const wasSteady = await steady(guest);
  const stepsPerSecond = await baselineRate(guest);
  return { ...(await costOf(guest, stepsPerSecond, save)), stepsPerSecond, wasSteady };
}

function summarize(runs: readonly Run[]): Measured {
  const middle = (of: (run: Run) => number) => median(runs.map(of));
  return {
    lostS: middle((run) => run.lostMs) / 1000,
    stallMs: middle((run) => run.longestStallMs),
    pauseMs: middle((run) => run.result.pauseMs),
    totalS: middle((run) => run.result.totalMs) / 1000,
    stepsPerSecond: middle((run) => run.stepsPerSecond),
    runs: runs.length,
    unsteady: runs.filter((run) => !run.wasSteady).length,
    notBack: runs.filter((run) => !run.back).length,
  };
}

/** What is to be said of how something was measured. */
function remarks(system: string, of: Measured | undefined): string[] {
  if (!of) return [];
  const runs = `in ${system}, in`;
  const found: string[] = [];
  if (of.unsteady > 0) found.push(`${runs} ${of.unsteady} of ${of.runs} runs: not steady before`);
  if (of.notBack > 0) {
    found.push(
      `${runs} ${of.notBack} of ${of.runs} runs: pace not back, the loss is a lower bound`,
    );
  }
  return found;
}

/** What each codec costs a guest of ours, by pattern. */
async function ours(
  store: Store,
  of: Workload,
  options: VmConfigInput,
  wanted: { pattern: Pattern; codec: Codec }[],
  repetitions: number,
): Promise<Map<string, Measured>> {
  const results = new Map<string, Measured>();
  const ckptfs = await Ckptfs.start(store, `lost-${options.trace ?? 'work'}`, of, options);
  try {
    const guest = await ckptfs.guest();
    for (const { pattern, codec } of wanted) {
      await guest.write(pattern, Math.min(writtenMib, of.filledMib));
      const runs: Run[] = [];
      for (let i = 0; i < repetitions; i++) {
        let entry: CheckpointEntry | undefined;
        const run = await runOnce(guest, async () => {
          const saved = await ckptfs.save({ codec, full: true });
          ({ entry } = saved);
          return { pauseMs: saved.pauseUs / 1000, totalMs: saved.totalMs ?? 0 };
        });
        runs.push(run);
        if (entry) await ckptfs.remove(entry);
      }
      results.set(`${pattern} ${codec}`, summarize(runs));
    }
    return results;
  } finally {
    await ckptfs.close();
    await store.removeVm(ckptfs.vm.name);
  }
}

async function qemus(directory: string, repetitions: number): Promise<Map<string, Measured>> {
  const results = new Map<string, Measured>();
  const file = join(directory, 'qemu.state');
  for (const pattern of patterns) {
    const stopped: Run[] = [];
    const background: Run[] = [];
    for (let i = 0; i < repetitions; i++) {
      const qemu = await Qemu.start(workload);
      try {
        const guest = await qemu.guest();
        await guest.write(pattern, writtenMib);
        stopped.push(await runOnce(guest, () => qemu.save('stopped', file)));
        background.push(await runOnce(guest, () => qemu.save('background', file)));
      } finally {
        await qemu.close();
        await rm(file, { force: true });
      }
    }
    results.set(`${pattern} stopped`, summarize(stopped));
    results.set(`${pattern} background`, summarize(background));
  }
  return results;
}

const perSecond = 'M steps/s';
const peers = [
  { how: 'background', name: 'QEMU background-snapshot', atMost: { random: 1 / 10, zipf: 1 / 20 } },
  { how: 'stopped', name: 'QEMU stop-and-save', atMost: { random: 1 / 2, zipf: 1 / 4 } },
];

export async function lostWork(store: Store, repetitions: number): Promise<Row[]> {
  return rowsOf(bench, 'lost guest work', async () => {
    const codecs = ['none', 'lz4'] satisfies Codec[];
    const wanted = patterns.flatMap((pattern) => codecs.map((codec) => ({ pattern, codec })));
    let why: string | undefined;
    const theirs = await qemus(store.root, repetitions).catch((error: unknown) => {
      why = String(error);
      return new Map<string, Measured>();
    });
    // More of them than of QEMU: they take less from the guest than its pace varies by itself.
    const mine = await ours(store, workload, {}, wanted, 2 * repetitions + 1);
    return patterns.flatMap((pattern) => {
      const background = theirs.get(`${pattern} background`);
      const stopped = theirs.get(`${pattern} stopped`);
      const name = (what: string) => `1 GiB, ${pattern} writer on 512 MiB: ${what}`;
      const pace = mine.get(`${pattern} none`)?.stepsPerSecond ?? NaN;
      const peerPace = {
        name: 'QEMU',
        value: stopped && stopped.stepsPerSecond / 1e6,
        why,
      };
      const rows = [row(bench, name('pace before'), pace / 1e6, perSecond, {}, peerPace)];
      for (const codec of codecs) {
        const cost = mine.get(`${pattern} ${codec}`);
        if (!cost) continue;
        for (const peer of peers) {
          const their = theirs.get(`${pattern} ${peer.how}`);
          const lost = row(
            bench,
            name(`lost guest work, ${codec}`),
            cost.lostS,
            's',
            { ratioAtMost: peer.atMost[pattern] },
            { name: peer.name, value: their?.lostS, why },
          );
          const all = [...remarks('ckptfs', cost), ...remarks('QEMU', their)];
          rows.push(...noted([lost], all, cost.notBack > 0));
        }
        rows.push(
          row(
            bench,
            name(`until saved, ${codec}`),
            cost.totalS,
            's',
            {},
            { name: 'QEMU background-snapshot, without fsync', value: background?.totalS, why },
          ),
          row(
            bench,
            name(`longest stall, ${codec}`),
            cost.stallMs,
            'ms',
            {},
            { name: 'QEMU background-snapshot', value: background?.stallMs, why },
          ),
        );
      }
      if (stopped) {
        rows.push(row(bench, name('QEMU stop-and-save: pause'), stopped.pauseMs, 'ms'));
      }
      return rows;
    });
  });
}

/** The engines at 512 MiB, the same for each: pause and lost work. */
export async function traceEngines(store: Store, repetitions: number): Promise<Row[]> {
  const small: Workload = { memoryBytes: 512 * mib, filledMib: 384 };
  const rows: Row[] = [];
  for (const trace of traceNames) {
    rows.push(
      ...(await rowsOf(bench, `trace engine ${trace}`, async () => {
        const wanted = patterns.map((pattern) => ({ pattern, codec: 'lz4' as const }));
        const costs = await ours(store, small, { trace }, wanted, repetitions);
        return patterns.flatMap((pattern) => {
          const cost = costs.get(`${pattern} lz4`);
          const name = (what: string) => `512 MiB, ${pattern}, ${trace}: ${what}`;
          if (!cost) return [];
          return [
            row(bench, name('pause'), cost.pauseMs, 'ms'),
            ...noted(
              [row(bench, name('lost guest work'), cost.lostS, 's')],
              remarks('ckptfs', cost),
              cost.notBack > 0,
            ),
            row(bench, name('pace before'), cost.stepsPerSecond / 1e6, perSecond),
          ];
        });
      })),
    );
  }
  return rows;
}
