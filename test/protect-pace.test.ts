/**
 * The decisions of protection, each without a clock, a VM or a second store: when a checkpoint is due and what was missed, what
 * the destination is to get and to lose, how old what it holds has been, and how all of it reads as metrics.
 */
import { rm, writeFile } from 'node:fs/promises';
import t, { type Test } from 'tap';
import type { Clock } from '../src/protect/clock.js';
import { Ledger } from '../src/protect/ledger.js';
import { type Left, pace, type PaceConfig } from '../src/protect/pace.js';
import { newestOf, newestOwn, nextToShip, tooMany } from '../src/protect/plan.js';
import { expose } from '../src/vmm/exposition.js';
import { CheckpointTally, metricsText } from '../src/vmm/metrics.js';
import { protectionStatus } from '../src/vmm/protection.js';
import type { VmStatus } from '../src/types.js';
import { temporaryStore } from './support/guests.js';
import { samplesOf } from './support/exposition.js';

const everyMs = 10_000;

interface Rig extends Partial<PaceConfig> {
  left?: Left;
  untilMs: number;
  /** Why none can be taken at a time. */
  obstacle?: (nowMs: number) => string | undefined;
  behind?: (nowMs: number) => string | undefined;
  written?: (sinceMs: number) => number;
  takeMs?: number;
}

/** Paces over a span of time that passes only while it sleeps or a checkpoint is taken. */
async function paced({ left, untilMs, obstacle, behind, written, takeMs = 0, ...config }: Rig) {
  const end = new AbortController();
  let nowMs = 0;
  const pass = (ms: number): void => {
    nowMs += ms;
    if (nowMs > untilMs) end.abort();
  };
  const clock: Clock = { now: () => nowMs, sleep: async (ms) => pass(ms) };
  const taken: number[] = [];
  const missed: [atMs: number, intervals: number, why: string][] = [];
  await pace(
    { everyMs, pollMs: 1000, retryMs: 2000, ...config },
    {
      take: async () => {
        const why = obstacle?.(nowMs);
        if (why === undefined) taken.push(nowMs);
        pass(takeMs);
        return why;
      },
      writtenBytes: async () => written?.(nowMs - (taken.at(-1) ?? 0)) ?? 0,
      behind: () => behind?.(nowMs),
      missed: (why, intervals) => missed.push([nowMs, intervals, why]),
    },
    left ?? { brokenOff: false },
    clock,
    end.signal,
  );
  return { taken, missed };
}

t.test('an interval after the other', async (t) => {
  t.same(await paced({ untilMs: 35_000 }), { taken: [0, 10_000, 20_000, 30_000], missed: [] });
  t.same(
    await paced({ untilMs: 25_000, takeMs: 700 }),
    { taken: [0, 10_000, 20_000], missed: [] },
    'counted from the beginning of the one before',
  );
  const slow = await paced({ untilMs: 65_000, takeMs: 21_000 });
  const why = 'the checkpoint before was still being saved';
  t.same(slow.taken, [0, 30_000, 60_000]);
  t.same(slow.missed, [
    [21_000, 2, why],
    [51_000, 2, why],
  ]);
});

t.test('where the last process stopped', async (t) => {
  const at = (ageMs: number, brokenOff: boolean) =>
    paced({ untilMs: 15_000, left: { ageMs, brokenOff } });
  t.same(await at(4000, true), { taken: [6000], missed: [] }, 'nothing was due meanwhile');
  t.same(await at(4000, false), { taken: [6000], missed: [] });
  t.same(await at(34_000, true), {
    taken: [0, 10_000],
    missed: [[0, 3, 'no process protected the VM']],
  });
  t.same(await at(34_000, false), { taken: [0, 10_000], missed: [] }, 'a person had ended it');
  t.same(await at(-5000, true), { taken: [10_000], missed: [] }, 'the time of day was set back');
});

t.test('as soon as enough has been written', async (t) => {
  const written = (sinceMs: number): number => sinceMs * 100;
  const busy = { untilMs: 9500, afterWrittenBytes: 300_000, written };
  t.same(await paced(busy), { taken: [0, 3000, 6000, 9000], missed: [] });
  t.same(
    (await paced({ ...busy, untilMs: 21_000, afterWrittenBytes: 1_200_000 })).taken,
    [0, 10_000, 20_000],
    'the interval comes first',
  );
  t.same(
    (await paced({ ...busy, behind: (nowMs) => (nowMs < 7000 ? 'sending' : undefined) })).taken,
    [0, 7000],
    'not while the one before is being sent',
  );
});

t.test('what cannot be taken is missed, and made up for', async (t) => {
  const paused = (nowMs: number) => (nowMs > 5000 && nowMs < 33_500 ? 'paused' : undefined);
  const { taken, missed } = await paced({ untilMs: 50_000, obstacle: paused });
  t.same(missed, [
    [10_000, 1, 'paused'],
    [20_000, 1, 'paused'],
    [30_000, 1, 'paused'],
  ]);
  t.equal(taken[0], 0);
  t.ok(taken[1]! >= 33_500 && taken[1]! <= 36_000, `taken at ${taken[1]}, as soon as it could be`);
  t.equal(taken[2]! - taken[1]!, everyMs, 'and an interval from then on');
});

t.test('an interval is missed when the destination lacks its checkpoint', async (t) => {
  const behind = (nowMs: number) => (nowMs > 5000 && nowMs < 25_000 ? 'no route' : undefined);
  t.same(await paced({ untilMs: 35_000, behind }), {
    taken: [0, 10_000, 20_000, 30_000],
    missed: [
      [10_000, 1, 'no route'],
      [20_000, 1, 'no route'],
    ],
  });
});

const checkpoint = (number: number, id: string | undefined = `id${number}`) => ({
  name: `protect-${number}`,
  id,
  createdAt: new Date(1e12 + number * 1000).toISOString(),
});

t.test('what is sent, and what is removed', async (t) => {
  const [one, two, three, four] = [1, 2, 3, 4].map((number) => checkpoint(number));
  const here = [one!, two!, three!, four!];
  const next = (...args: Parameters<typeof nextToShip>) => nextToShip(...args)?.name;
  t.equal(next(here, []), 'protect-4', 'the newest first');
  t.equal(next(here, [four!]), 'protect-3');
  t.equal(next(here, [four!, three!]), 'protect-2');
  t.equal(next(here, here), undefined);
  t.equal(next([], here), undefined);
  t.equal(next(here, [four!, three!], 2), undefined, 'what would be removed at once is not sent');
  t.equal(next(here, [four!, one!], 3), 'protect-3');
  t.equal(next(here, [four!], 3, new Set(['id3'])), 'protect-2', 'in vain before');
  t.equal(next(here, [], 3, new Set(['id4'])), 'protect-4', 'the newest always');
  const manual = { ...checkpoint(9), name: 'before-upgrade' };
  t.equal(next([manual], []), undefined, 'it is not ours');
  t.equal(next([{ ...checkpoint(5), id: undefined }], []), undefined, 'it is damaged');
  t.equal(
    next([{ ...one!, createdAt: four!.createdAt }, four!], []),
    'protect-4',
    'by name when of one time',
  );

  t.same(tooMany(here, 2), [two, one]);
  t.same(tooMany(here), []);
  t.same(tooMany([manual, ...here], 4), []);
  t.equal(newestOf([manual, ...here])?.name, 'before-upgrade');
  t.equal(newestOwn([manual, ...here])?.name, 'protect-4');
  t.equal(newestOf([]), undefined);
});

const settings = {
  ...{ to: '/far', everyMs, keep: 3 },
  ...{ afterWrittenBytes: undefined, commitBytes: undefined },
};

async function vmOf(t: Test) {
  const { store, remove } = await temporaryStore();
  t.teardown(remove);
  await store.createVm('web');
  return store;
}

t.test('RPO, over a kill and after an end', async (t) => {
  const store = await vmOf(t);
  const base = 1e12;
  const at = (ms: number) => new Date(base + ms).toISOString();
  const one = await Ledger.open(store, 'web', settings);
  t.notOk(one.brokenOff);
  t.equal(one.holds({ name: 'a', createdAt: at(0) }, base + 2000), 2000);
  t.equal(one.holds({ name: 'a', createdAt: at(0) }, base + 9000), 9000);
  t.equal(one.holds({ name: 'b', createdAt: at(10_000) }, base + 13_000), 3000);
  t.equal(one.record.worstRpoMs, 13_000, 'the one before was the newest until then');
  one.taken();
  one.shipped(500);
  one.missed('why', 3);
  t.ok(one.failed('transfer', 'no route'));
  t.notOk(one.failed('transfer', 'no route'), 'told once');
  t.ok(one.failed('transfer', 'no host'));
  await t.rejects(Ledger.open(store, 'web', settings), { code: 'BUSY', message: /protected/ });
  await t.rejects(Ledger.open(store, 'none', settings), { code: 'NOT_FOUND' });
  // Killed: only the lock goes.
  await one[Symbol.asyncDispose]();

  const two = await Ledger.open(store, 'web', { ...settings, keep: undefined });
  t.ok(two.brokenOff);
  t.match(two.record, { taken: 1, shipped: 1, shippedBytes: 500, missed: 3, worstRpoMs: 13_000 });
  t.equal(two.record.keep, undefined, 'as it is asked for now');
  t.ok(two.works('transfer'));
  t.notOk(two.works('transfer'));
  t.same(two.record.failures, {});
  two.holds({ name: 'c', createdAt: at(60_000) }, base + 61_000);
  t.equal(two.record.worstRpoMs, 51_000, 'the gap is in it');
  two.end();
  await two[Symbol.asyncDispose]();
  t.match(await protectionStatus(store, 'web', base + 200_000), {
    ...{ active: false, rpoMs: 140_000, worstRpoMs: 140_000 },
    newest: { name: 'c' },
  });

  const three = await Ledger.open(store, 'web', settings);
  t.match(three.record, { taken: 0, missed: 0, worstRpoMs: 0, newest: { name: 'c' } });
  t.equal((await protectionStatus(store, 'web', base + 61_500))?.rpoMs, 1500);
  await three[Symbol.asyncDispose]();
  t.equal((await protectionStatus(store, 'web'))?.active, true, 'its process is this one');

  const other = await Ledger.open(store, 'web', { ...settings, to: '/other' });
  t.equal(other.record.newest, undefined, 'another destination has nothing yet');
  t.notOk(other.brokenOff);
  await other[Symbol.asyncDispose]();
  await writeFile(store.protectionFile('web'), '{"format":');
  await t.rejects(protectionStatus(store, 'web'), { code: 'DAMAGED' });
  const anew = await Ledger.open(store, 'web', settings);
  t.equal(anew.record.taken, 0);
  await anew[Symbol.asyncDispose]();
  await rm(store.protectionFile('web'));
  t.equal(await protectionStatus(store, 'web'), undefined);
});

t.test('metrics', async (t) => {
  t.equal(
    expose(
      [
        { name: 'a_total', help: 'a\\b\nc', type: 'counter', samples: [{ value: 5 }] },
        { name: 'none', help: '', type: 'gauge', samples: [] },
      ],
      { vm: 'x"\\\n' },
    ),
    '# HELP a_total a\\\\b\\nc\n# TYPE a_total counter\na_total{vm="x\\"\\\\\\n"} 5\n',
  );
  const status: VmStatus = {
    ...{ vm: 'web', state: 'running', pid: 1, startedAt: '2026-01-01T00:00:00.000Z' },
    ...{ memoryBytes: 2 ** 20, cpus: 2, instructions: 7, guestTicks: '1', faults: 3 },
    ...{ mappings: 1, dirtyBytes: 4096 },
  };
  const tally = new CheckpointTally();
  const summary = { vm: 'web', id: '', name: 'x', state: 'published', memoryBytes: 0 } as const;
  for (const pauseUs of [1500, 500]) {
    tally.note({ type: 'published', checkpoint: { ...summary, pauseUs, storedBytes: 10 } });
  }
  tally.note({ type: 'missed', why: 'x' });
  tally.note({ type: 'failed', failure: { name: '', code: 'IO', message: '', at: '' } });

  const alone = samplesOf(metricsText({ status, tally, checkpoints: 4 }));
  t.equal(alone.get('ckptfs_vm_state{vm="web",state="running"}'), 1);
  t.equal(alone.get('ckptfs_vm_state{vm="web",state="paused"}'), 0);
  t.equal(alone.get('ckptfs_checkpoints{vm="web"}'), 4);
  t.equal(alone.get('ckptfs_checkpoints_published_total{vm="web"}'), 2);
  t.equal(alone.get('ckptfs_checkpoint_pause_seconds_total{vm="web"}'), 0.002);
  t.equal(alone.get('ckptfs_checkpoint_last_pause_seconds{vm="web"}'), 0.0005);
  t.equal(alone.get('ckptfs_checkpoints_missed_total{vm="web"}'), 1);
  t.equal(alone.get('ckptfs_checkpoints_failed_total{vm="web"}'), 1);
  t.notOk([...alone.keys()].some((key) => key.startsWith('ckptfs_protect')));

  const store = await vmOf(t);
  await using ledger = await Ledger.open(store, 'web', settings);
  const before = samplesOf(
    metricsText({ status, tally, checkpoints: 4, protection: await statusOf() }),
  );
  t.equal(before.get('ckptfs_protect_active{vm="web"}'), 1);
  t.notOk(before.has('ckptfs_protect_rpo_seconds{vm="web"}'), 'none before the first');
  ledger.holds({ name: 'a', createdAt: new Date(1e12).toISOString() }, 1e12 + 2000);
  ledger.shipped(77);
  ledger.failed('transfer', 'no route');
  const protection = await statusOf();
  const after = samplesOf(metricsText({ status, tally, checkpoints: 4, protection }));
  t.equal(after.get('ckptfs_protect_rpo_seconds{vm="web"}'), 5);
  t.equal(after.get('ckptfs_protect_rpo_worst_seconds{vm="web"}'), 5);
  t.equal(after.get('ckptfs_protect_newest_time_seconds{vm="web"}'), 1e9);
  t.equal(after.get('ckptfs_protect_shipped_bytes_total{vm="web"}'), 77);
  t.equal(after.get('ckptfs_protect_failing{vm="web",step="transfer"}'), 1);
  t.equal(after.get('ckptfs_protect_failing{vm="web",step="checkpoint"}'), 0);

  async function statusOf() {
    await ledger.settled();
    return protectionStatus(store, 'web', 1e12 + 5000);
  }
});
