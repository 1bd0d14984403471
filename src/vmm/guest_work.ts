/**
 * How much work a guest loses while something is done to its VM. Its instructions a second before that are the
 * baseline; the sum of (1 - rate / baseline) over the time is then the time less what the guest has done in it. Of a
 * guest that does not always do the same it is an estimate.
 */
import { setTimeout } from 'node:timers/promises';
import type { VmStatus } from '../types.js';

/** What is asked of the VM. */
export interface Observed {
  status(): Promise<Pick<VmStatus, 'instructions'>>;
}

export interface LostWork {
  /** Milliseconds of the guest's work that are missing; never negative. */
  lostMs: number;
  /** For how long it was watched. */
  watchedMs: number;
}

interface Sample {
  ms: number;
  instructions: number;
}

async function sample(vm: Observed): Promise<Sample> {
  const before = performance.now();
  const { instructions } = await vm.status();
  return { ms: (before + performance.now()) / 2, instructions };
}

/** Takes the baseline for `baselineMs`; from when this resolves on, until the call of the result, the guest is watched. */
export async function watchGuestWork(
  vm: Observed,
  baselineMs = 500,
): Promise<() => Promise<LostWork>> {
  const first = await sample(vm);
  await setTimeout(baselineMs);
  const begin = await sample(vm);
  const perMs = (begin.instructions - first.instructions) / (begin.ms - first.ms);
  return async () => {
    const end = await sample(vm);
    const watchedMs = end.ms - begin.ms;
    const doneMs = perMs > 0 ? (end.instructions - begin.instructions) / perMs : watchedMs;
    return { lostMs: Math.max(0, watchedMs - doneMs), watchedMs };
  };
}
