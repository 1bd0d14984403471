/** Retention: which checkpoints the rules keep, compared with a plain reading of what they say. */
import t from 'tap';
import type { CheckpointEntry } from '../src/checkpoint/checkpoints.js';
import type { Manifest } from '../src/checkpoint/manifest.js';
import { judge, type RetentionRules } from '../src/checkpoint/retention.js';
import { CkptError } from '../src/errors.js';

function entry(time: string, whole = true): CheckpointEntry {
  return {
    vm: 'vm',
    name: time,
    directory: `/${time}`,
    createdAt: new Date(`${time}Z`),
    ...(whole ? { manifest: {} as Manifest } : { damage: new CkptError('DAMAGED', 'x') }),
  };
}

/** The kept ones, newest first, each with its reasons. */
function kept(times: string[], rules: RetentionRules): Record<string, string> {
  const verdicts = judge(
    times.map((time) => entry(time)),
    rules,
  ).filter(({ reasons }) => reasons.length > 0);
  return Object.fromEntries(verdicts.map(({ entry, reasons }) => [entry.name, reasons.join()]));
}

t.test('the newest, whatever the order of the list', async (t) => {
  const times = ['2026-01-01T00:00:00', '2026-01-03T00:00:00', '2026-01-02T00:00:00'];
  t.same(kept(times, { keepLast: 2 }), {
    '2026-01-03T00:00:00': 'last',
    '2026-01-02T00:00:00': 'last',
  });
  t.equal(Object.keys(kept(times, { keepLast: 9 })).length, 3);
  t.same(kept([], { keepLast: 1 }), {});
});

t.test('the newest of each period, and the oldest while there is room', async (t) => {
  const times = [
    '2026-01-01T10:15:00',
    '2026-01-01T10:45:00',
    '2026-01-01T11:59:59',
    '2026-01-01T12:00:00',
    '2026-01-01T12:30:00',
  ];
  t.same(kept(times, { keepHourly: 2 }), {
    '2026-01-01T12:30:00': 'hourly',
    '2026-01-01T11:59:59': 'hourly',
  });
  t.same(kept(times, { keepHourly: 4 }), {
    '2026-01-01T12:30:00': 'hourly',
    '2026-01-01T11:59:59': 'hourly',
    '2026-01-01T10:45:00': 'hourly',
    '2026-01-01T10:15:00': 'oldest hourly',
  });
});

t.test('a checkpoint stays if any rule keeps it', async (t) => {
  const times = ['2026-01-01T00:00:00', '2026-01-01T23:59:59', '2026-01-02T00:00:00'];
  t.same(kept(times, { keepLast: 1, keepDaily: 2, keepHourly: 1 }), {
    '2026-01-02T00:00:00': 'last,hourly,daily',
    '2026-01-01T23:59:59': 'daily',
  });
});

t.test('weeks begin on Monday, and belong to the year of their Thursday', async (t) => {
  // 2024-12-30 is a Monday: week 1 of 2025. 2026-12-31 and 2027-01-03 are in week 53 of 2026.
  const times = [
    '2024-12-29T12:00:00',
    '2024-12-30T12:00:00',
    '2025-01-05T12:00:00',
    '2026-12-31T12:00:00',
    '2027-01-03T12:00:00',
    '2027-01-04T12:00:00',
  ];
  t.same(Object.keys(kept(times, { keepWeekly: 4 })), [
    '2027-01-04T12:00:00',
    '2027-01-03T12:00:00',
    '2025-01-05T12:00:00',
    '2024-12-29T12:00:00',
  ]);
  t.same(Object.keys(kept(times, { keepMonthly: 2 })), [
    '2027-01-04T12:00:00',
    '2026-12-31T12:00:00',
  ]);
});

t.test('against a plain count, at random', async (t) => {
  let state = 1;
  const random = (below: number) => {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
  for (let round = 0; round < 200; round++) {
    const times = Array.from({ length: random(60) }, () =>
      new Date(Date.UTC(2026, 0, 1) + random(90) * 3_600_000 + random(3600) * 1000)
        .toISOString()
        .slice(0, 19),
    );
    const unique = [...new Set(times)].sort().reverse();
    const limit = 1 + random(8);
    for (const [rule, digits] of [
      ['keepHourly', 13],
      ['keepDaily', 10],
    ] as const) {
      const newestOf = new Map<string, string>();
      for (const time of unique) {
        const period = time.slice(0, digits);
        if (!newestOf.has(period)) newestOf.set(period, time);
      }
      const expected = [...newestOf.values()].slice(0, limit);
      const oldest = unique.at(-1);
      if (newestOf.size < limit && oldest !== undefined && !expected.includes(oldest)) {
        expected.push(oldest);
      }
      const found = Object.keys(kept(unique, { [rule]: limit }));
      if (found.join() !== expected.join()) t.same(found, expected, `${rule} ${limit}`);
    }
  }
});

t.test('what is damaged stays and counts for nothing; no rule is refused', async (t) => {
  const entries = [entry('2026-01-01T00:00:00'), entry('2026-01-02T00:00:00', false)];
  t.same(
    judge(entries, { keepLast: 1 }).map(({ reasons }) => reasons),
    [['damaged'], ['last']],
  );
  t.throws(() => judge(entries, {}), { code: 'USAGE', message: /--keep-last/ });
});
