/**
 * How the files of a disk are named, in a VM's directory and in checkpoints alike, so that a file keeps its name
 * wherever it is linked:
 *
 *   <n>.redo       redo logs, n in eight digits, in order
 *   <m>-<n>.redo   one that holds what the logs from m to n held, and replaces them as soon as it has its name
 *   <n>.raw        a parent of the VM's own, into which the logs up to n are or will be committed
 *   <log>.<what>   a log that is being made
 */
import { basename } from 'node:path';

const redoName = /^(?:(\d{8})-)?(\d{8})\.redo$/;
const unfinishedName = /^(?:\d{8}-)?\d{8}\.redo\../;
/** With what a copy that was cut short has left. */
const rawName = /^\d{8}\.raw(\.new-[0-9a-f]+)?$/;

function digits(number: number): string {
  return String(number).padStart(8, '0');
}

export function logName(number: number): string {
  return `${digits(number)}.redo`;
}

export function ownParentName(number: number): string {
  return `${digits(number)}.raw`;
}

export function isLog(name: string): boolean {
  return redoName.test(name);
}

/** What was being made when its maker died. */
export function isUnfinishedLog(name: string): boolean {
  return unfinishedName.test(name);
}

export function isOwnParent(name: string): boolean {
  return rawName.test(name);
}

/** The numbers of the logs whose contents the log at `path` has. */
function rangeOf(path: string): { first: number; last: number } {
  const [, first, last] = redoName.exec(basename(path)) ?? [];
  return { first: Number(first ?? last), last: Number(last) };
}

/** Of the log at `path`; of one that replaced others the number of the last of them. */
export function logNumber(path: string): number {
  return rangeOf(path).last;
}

/** The name of a log that replaces those at `paths`, adjacent ones, oldest first: of one alone its own. */
export function replacementName(paths: readonly string[]): string {
  const [oldest = '', newest = oldest] = [paths[0], paths.at(-1)];
  const [{ first }, { last }] = [rangeOf(oldest), rangeOf(newest)];
  return first === last ? logName(last) : `${digits(first)}-${logName(last)}`;
}

/** The logs among the files of a disk, oldest first, without those that another one replaces. */
export function currentLogs(names: readonly string[]): string[] {
  const logs = names.filter(isLog).map((name) => ({ name, ...rangeOf(name) }));
  const length = (log: { first: number; last: number }): number => log.last - log.first;
  const replaces = (one: (typeof logs)[number], other: (typeof logs)[number]): boolean =>
    length(one) > length(other) && one.first <= other.first && one.last >= other.last;
  return logs
    .filter((log) => !logs.some((other) => replaces(other, log)))
    .sort((a, b) => a.last - b.last)
    .map(({ name }) => name);
}
