/**
 * Bringing a VM to another place while it runs (requirements E1 and E2): in rounds, each a live checkpoint of what was
 * written during the one before, shipped while the guest goes on. When a round has left little to ship, the next is
 * the last: it is what the clone goes on from, complete there as soon as that little has arrived.
 *
 * Where things go is the target's affair. The first VM stops for the pause of a checkpoint in each round, and for
 * nothing else.
 */
import { CkptError } from '../errors.js';
import type { CheckpointRequest, CheckpointSummary, VmControl } from '../types.js';
import { type LostWork, watchGuestWork } from './guest_work.js';

/** The VM that is copied: its client. */
export type PrecopySource = Pick<VmControl, 'status' | 'checkpoint'> & { readonly vm: string };

export interface PrecopyTarget {
  /** Brings what it lacks of a published checkpoint to the other place; resolves with the bytes that took. */
  ship(checkpoint: CheckpointSummary, signal?: AbortSignal): Promise<number>;
  /** A checkpoint of an earlier round is of no use any more, here or there. */
  drop(checkpoint: CheckpointSummary): Promise<void>;
}

export interface PrecopyPolicy {
  /** A round that leaves at most so much to ship is followed by the last; 16 MiB by default. */
  thresholdBytes?: number;
  /** At most so many rounds before the last; 30 by default. */
  maxRounds?: number;
  /** When rounds leave no less than before: `go` makes the next round the last, which takes as long as it takes to
   *  ship; `stop` gives up. */
  onDivergence?: 'go' | 'stop';
}

export interface PrecopyRound {
  checkpoint: CheckpointSummary;
  /** What was brought over. */
  shippedBytes: number;
  /** How long saving and shipping took. */
  ms: number;
  /** What the guest wrote meanwhile: what there is for the next round. */
  writtenBytes: number;
}

export interface Precopied {
  /** The checkpoint of the last one is what the clone goes on from; it has arrived. */
  last: PrecopyRound;
  /** Those before. */
  rounds: PrecopyRound[];
  /** Whether little was left for the last round. */
  converged: boolean;
  /** Of the first VM's guest, in all. */
  lostWork: LostWork;
}

export interface PrecopyHooks {
  /** A round has arrived; after the last one nothing is left. */
  onRound?: (round: PrecopyRound, isLast: boolean) => void;
  /** These rounds do not converge, and the next is the last all the same. */
  onDiverging?: (rounds: readonly PrecopyRound[]) => void;
  signal?: AbortSignal | undefined;
}

const defaults = { thresholdBytes: 16 * 2 ** 20, maxRounds: 30, onDivergence: 'go' } as const;
/** A round that leaves more than this part of what the one before left has not gained anything. */
const gain = 0.9;

/**
 * Copies until a last checkpoint is there, whose disks are copied with it if the request says so. BUSY when rounds do
 * not converge and the policy is to stop; CANCELLED. Then, and after any failure, nothing is kept of the rounds.
 */
export async function precopy(
  source: PrecopySource,
  target: PrecopyTarget,
  request: Omit<CheckpointRequest, 'name' | 'wait' | 'suspend' | 'group'> & PrecopyPolicy = {},
  hooks: PrecopyHooks = {},
): Promise<Precopied> {
  const { thresholdBytes, maxRounds, onDivergence, copyDisks, ...how } = {
    ...defaults,
    ...request,
  };
  const lost = await watchGuestWork(source);
  const rounds: PrecopyRound[] = [];
  /** The newest, and the one before until that has arrived. */
  const kept: CheckpointSummary[] = [];
  const round = async (last: boolean): Promise<PrecopyRound> => {
    const begun = performance.now();
    const wanted = { ...how, copyDisks: last && copyDisks };
    const checkpoint = await source.checkpoint(wanted, undefined, hooks.signal);
    kept.push(checkpoint);
    const shippedBytes = await target.ship(checkpoint, hooks.signal);
    const before = kept.length > 1 ? kept.shift() : undefined;
    if (before !== undefined) await target.drop(before);
    const { dirtyBytes } = await source.status();
    const done: PrecopyRound = {
      checkpoint,
      shippedBytes,
      ms: performance.now() - begun,
      writtenBytes: dirtyBytes,
    };
    hooks.onRound?.(done, last);
    return done;
  };
  try {
    let converged = false;
    for (let left = Infinity; !converged && rounds.length < maxRounds;) {
      const one = await round(false);
      rounds.push(one);
      const { writtenBytes } = one;
      converged = writtenBytes <= thresholdBytes;
      if (!converged && writtenBytes > left * gain) break;
      left = writtenBytes;
    }
    if (!converged) {
      if (onDivergence === 'stop') throw diverging(source.vm, rounds);
      hooks.onDiverging?.(rounds);
    }
    return { last: await round(true), rounds, converged, lostWork: await lost() };
  } catch (error) {
    for (const one of kept) await target.drop(one).catch(() => undefined); // the failure is what counts
    throw error;
  }
}

function diverging(vm: string, rounds: PrecopyRound[]): CkptError {
  const last = rounds.at(-1);
  return new CkptError(
    'BUSY',
    `VM ${vm} writes as fast as it can be copied (${last?.writtenBytes} bytes in the last round); ` +
      'let it write less, use a faster way there, or let the copy go on all the same',
    { vm, rounds },
  );
}
