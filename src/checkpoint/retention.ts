/**
 * Retention: which checkpoints of a VM stay. A checkpoint stays if any rule keeps it.
 *
 * keepLast: the newest so many. keepHourly, -Daily, -Weekly, -Monthly: of each of the newest so many hours (days,
 * ISO weeks, months; in UTC) that have checkpoints, the newest one; while a rule has not kept as many as it
 * may, the oldest checkpoint of all as well, so that the history reaches as far back as it can. A damaged
 * checkpoint is not counted and stays: what it is has to be looked at.
 */
import { CkptError } from '../errors.js';
import type { CheckpointEntry } from './checkpoints.js';

export interface RetentionRules {
  keepLast?: number;
  keepHourly?: number;
  keepDaily?: number;
  keepWeekly?: number;
  keepMonthly?: number;
}

/** What becomes of one checkpoint: it stays when there is a reason. */
export interface Verdict {
  entry: CheckpointEntry;
  reasons: string[];
}

/** Names the period that a time lies in; the number of the checkpoint, from the newest, for `last`. */
type Period = (time: Date, number: number) => string;

const periods: [keyof RetentionRules, string, Period][] = [
  ['keepLast', 'last', (_time, number) => String(number)],
  ['keepHourly', 'hourly', (time) => time.toISOString().slice(0, 13)],
  ['keepDaily', 'daily', (time) => time.toISOString().slice(0, 10)],
  ['keepWeekly', 'weekly', isoWeek],
  ['keepMonthly', 'monthly', (time) => time.toISOString().slice(0, 7)],
];

/** Year and week of ISO 8601: weeks begin on Monday and belong to the year of their Thursday. */
function isoWeek(time: Date): string {
  const dayMs = 86_400_000;
  const weekday = (time.getUTCDay() + 6) % 7;
  const thursday = new Date(time.getTime() + (3 - weekday) * dayMs);
  const year = thursday.getUTCFullYear();
  const week = Math.floor((thursday.getTime() - Date.UTC(year, 0, 1)) / (7 * dayMs)) + 1;
  return `${year}-W${week}`;
}

/** Judges the checkpoints of one VM, newest first. USAGE without a rule. */
export function judge(entries: readonly CheckpointEntry[], rules: RetentionRules): Verdict[] {
  const limits = periods.filter(([rule]) => rules[rule] !== undefined);
  if (limits.length === 0) {
    throw new CkptError(
      'USAGE',
      'nothing says what to keep; give at least one rule, such as --keep-last 5',
    );
  }
  const newestFirst = entries.toSorted((a, b) => b.createdAt.getTime() - a.createdAt.getTime());
  const verdicts = newestFirst.map((entry): Verdict => ({
    entry,
    reasons: entry.manifest ? [] : ['damaged'],
  }));
  const whole = verdicts.filter(({ entry }) => entry.manifest !== undefined);
  for (const [rule, what, period] of limits) {
    let left = rules[rule] ?? 0;
    let last: string | undefined;
    whole.forEach(({ entry, reasons }, number) => {
      if (left === 0) return;
      const now = period(entry.createdAt, number);
      const isOldest = number === whole.length - 1;
      if (now === last && !isOldest) return;
      reasons.push(now === last ? `oldest ${what}` : what);
      last = now;
      left--;
    });
  }
  return verdicts;
}
