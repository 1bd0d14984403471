/** Time as protection sees it; a test has its own. */
import { setTimeout } from 'node:timers/promises';

export interface Clock {
  /** Milliseconds that only grow, whatever becomes of the time of day. */
  now(): number;
  /** Resolves after so long, or at once when `signal` aborts. */
  sleep(ms: number, signal: AbortSignal): Promise<void>;
}

/** The most that a timer of Node can wait. */
const maxMs = 2 ** 31 - 1;

export const systemClock: Clock = {
  now: () => performance.now(),
  sleep: async (ms, signal) => {
    await setTimeout(Math.min(ms, maxMs), undefined, { signal }).catch(() => undefined);
  },
};
