/**
 * Compaction of the redo logs of a VM's disk: those that are mostly of no use any more are replaced by logs that
 * hold the newest version of each block alone, adjacent ones by one.
 *
 * What any checkpoint shows never changes, since it has links to the old logs. A new log gets its name, which
 * says what it replaces (disk_names.ts), when it is whole and durable; so a kill at any point leaves the old ones
 * or the new one in force, and leftovers that the next start removes. Until all are whole a failure changes
 * nothing.
 *
 * Owner: the process that holds the VM's lock.
 */
import { join } from 'node:path';
import createDebug from 'debug';
import { replacementName } from '../checkpoint/disk_names.js';
import { CkptError } from '../errors.js';
import {
  compactDisk as compactStopped,
  type LogRun,
  type LogSurvey,
  surveyDisk,
  type TaskHooks,
} from '../native.js';
import type { CompactDiskOptions, CompactDiskSummary } from '../types.js';
import { cleanBase, layersOf, nextRedo } from './disk_base.js';
import type { DiskPlace } from './disk_place.js';

const debug = createDebug('ckptfs:disk');

const defaultThreshold = 50;
/** A log without records. */
const emptyBytes = 512;
/** What must be dead in the log that takes the writes, for it to be worth a log more. */
const worthBytes = 1 << 20;

/** Compacts logs of a disk. BUSY, USAGE, CANCELLED, NO_SPACE, DAMAGED, IO. */
export async function compactDisk(
  place: DiskPlace,
  options: CompactDiskOptions = {},
  hooks: TaskHooks = {},
): Promise<CompactDiskSummary> {
  const { store, vm, disk, machine } = place;
  const directory = store.diskDirectory(vm, disk.id);
  await cleanBase(directory, disk.path);
  const layers = await layersOf(directory, disk.path);
  const before = machine ? await machine.surveyDisk(disk.id) : await surveyDisk(layers);
  const runs = chooseRuns(before, options).map(({ first, logs }): LogRun => {
    const paths = before.slice(first, first + logs).map(({ path }) => path);
    return { first, logs, path: join(directory, replacementName(paths)) };
  });
  const replaced = runs.reduce((sum, { logs }) => sum + logs, 0);
  const summarize = (after: LogSurvey[]): CompactDiskSummary => ({
    ...{ vm, disk: disk.id, replaced, written: runs.length },
    ...{ logsBefore: before.length, logsAfter: after.length },
    ...{ bytesBefore: bytesOf(before), bytesAfter: bytesOf(after) },
  });
  const last = runs.at(-1);
  if (last === undefined) return summarize(before);
  // The log that takes the writes is among them: a fresh one takes them from here on.
  if (machine && last.first + last.logs === before.length) {
    await machine.freezeDisk(disk.id, await nextRedo(directory));
  }
  const after = machine
    ? await machine.compactDisk(disk.id, runs, hooks)
    : await compactStopped(layers, runs, hooks);
  await cleanBase(directory, disk.path);
  const summary = summarize(after);
  debug('compacted: %o', summary);
  return summary;
}

function bytesOf(logs: LogSurvey[]): number {
  return logs.reduce((sum, { bytes }) => sum + bytes, 0);
}

/** Runs of adjacent logs that are mostly of no use; of single ones those that become smaller by it. */
export function chooseRuns(
  logs: readonly LogSurvey[],
  { all = false, threshold = defaultThreshold }: CompactDiskOptions,
): Omit<LogRun, 'path'>[] {
  if (!(threshold > 0 && threshold <= 100)) {
    throw new CkptError('USAGE', `a threshold is a percentage from 1 to 100, not ${threshold}`);
  }
  const isMostlyDead = (live: number, { bytes }: LogSurvey): boolean =>
    live * 100 < threshold * bytes;
  const runs: Omit<LogRun, 'path'>[] = [];
  for (const [i, log] of logs.entries()) {
    const worth = log.sealed || log.bytes - log.liveBytes >= worthBytes;
    if (!(all ? log.bytes > emptyBytes : worth && isMostlyDead(log.liveBytes, log))) continue;
    const run = runs.at(-1);
    if (run && run.first + run.logs === i) run.logs++;
    else runs.push({ first: i, logs: 1 });
  }
  // What a log above hides stays in a log alone, so that counts for it.
  return runs.filter(({ first, logs: count }) => {
    const log = logs[first];
    if (log === undefined || count > 1) return true;
    return all ? log.compactBytes < log.bytes : isMostlyDead(log.compactBytes, log);
  });
}
