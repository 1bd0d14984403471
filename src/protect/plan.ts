/**
 * What the destination is to have, from what both sides have (requirement D7): nothing else is remembered of it, so a
 * process that starts anew goes on where the last one was.
 *
 * The newest checkpoint goes first, since it alone says how much a disaster would cost. Those that were taken while
 * the destination was away follow, newest first, as far as its retention would keep them: then its history has no
 * more gaps than it must.
 */

import type { CheckpointEntry } from '../checkpoint/checkpoints.js';

/** What the names of checkpoints begin with that protection takes; it removes no others. */
export const protectPrefix = 'protect-';

/** A checkpoint of either side; without an id it is damaged, and is left alone. */
export interface Known {
  name: string;
  id?: string | undefined;
  /** ISO 8601. */
  createdAt: string;
}

/** A checkpoint of the store as one side of the comparison. */
export function known({ name, createdAt, manifest }: CheckpointEntry): Known {
  return { name, id: manifest?.id, createdAt: createdAt.toISOString() };
}

interface Whole extends Known {
  id: string;
}

/**
 * The checkpoint to be sent next; undefined when the destination has all that it would keep. Those in `refused`
 * were tried in vain and are passed over, but for the newest.
 */
export function nextToShip(
  here: readonly Known[],
  there: readonly Known[],
  keep = Infinity,
  refused: ReadonlySet<string> = new Set(),
): Whole | undefined {
  const held = new Set(there.map(({ id }) => id));
  const missing = ours(here).filter(({ id }) => !held.has(id));
  const all = newestFirst([...missing, ...ours(there)]).slice(0, keep);
  return all.find((one, i) => missing.includes(one) && (i === 0 || !refused.has(one.id)));
}

/** What the destination has beyond the newest `keep`. */
export function tooMany(there: readonly Known[], keep = Infinity): Whole[] {
  return newestFirst(ours(there)).slice(keep);
}

/** The newest checkpoint that can be restored, whoever took it. */
export function newestOf(known: readonly Known[]): Whole | undefined {
  return newestFirst(known.filter(isWhole))[0];
}

/** The newest that protection has taken. */
export function newestOwn(known: readonly Known[]): Whole | undefined {
  return newestFirst(ours(known))[0];
}

function ours(known: readonly Known[]): Whole[] {
  return known.filter(isWhole).filter(({ name }) => name.startsWith(protectPrefix));
}

function isWhole(known: Known): known is Whole {
  return known.id !== undefined;
}

/** By time, then by name: of one second the later ones have a number. */
function newestFirst(known: readonly Whole[]): Whole[] {
  const key = ({ createdAt, name }: Whole): string =>
    `${new Date(createdAt).toISOString()} ${name}`;
  return known.toSorted((a, b) => (key(a) < key(b) ? 1 : -1));
}
