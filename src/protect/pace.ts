/**
 * When checkpoints fall due (requirement D7): every interval, counted from the last one, and before that as soon as the
 * guest has written enough.
 *
 * What cannot be taken when it is due is a missed interval, and so is one at whose end the destination still lacks the
 * checkpoint before: both are told with the reason. A checkpoint that is overdue is taken as soon as it can be.
 */
import type { Clock } from './clock.js';

export interface PaceConfig {
  everyMs: number;
  afterWrittenBytes?: number | undefined;
  /** How often to look at what has been written. */
  pollMs: number;
  /** How long after an attempt in vain the next one is made. */
  retryMs: number;
}

/** What is paced. */
export interface Paced {
  /** Takes a checkpoint; resolves with the reason when none could be taken. */
  take(): Promise<string | undefined>;
  /** Memory written since the last checkpoint. */
  writtenBytes(): Promise<number>;
  /** Why the destination does not have the last checkpoint yet; undefined when it has. */
  behind(): string | undefined;
  /** So many intervals were missed. */
  missed(why: string, intervals: number): void;
}

/** How it was left: the age of the last checkpoint, if there is one, and whether protection broke off since. */
export interface Left {
  ageMs?: number | undefined;
  brokenOff: boolean;
}

/** Paces until `signal` aborts. */
export async function pace(
  config: PaceConfig,
  paced: Paced,
  left: Left,
  clock: Clock,
  signal: AbortSignal,
): Promise<void> {
  const { everyMs, afterWrittenBytes, pollMs, retryMs } = config;
  let dueAt = clock.now() + (left.ageMs === undefined ? 0 : everyMs - Math.max(0, left.ageMs));
  let overdue = dueAt <= clock.now();
  let triedAt = -Infinity;
  const hasEnded = (): boolean => signal.aborted;

  /** Passes over the intervals that have ended. */
  const skip = (why: string): void => {
    const intervals = Math.floor((clock.now() - dueAt) / everyMs) + 1;
    if (intervals <= 0) return;
    dueAt += intervals * everyMs;
    paced.missed(why, intervals);
  };
  const hasWritten = async (): Promise<boolean> =>
    afterWrittenBytes !== undefined &&
    paced.behind() === undefined &&
    (await paced.writtenBytes()) >= afterWrittenBytes;
  const wants = async (): Promise<boolean> =>
    clock.now() - triedAt >= retryMs && (overdue || (await hasWritten()));

  if (overdue && left.ageMs !== undefined && left.brokenOff) skip('no process protected the VM');
  else if (overdue) dueAt = clock.now();
  while (!hasEnded()) {
    const isDue = clock.now() >= dueAt;
    if (isDue || (await wants())) {
      const behind = paced.behind();
      const begunAt = clock.now();
      const why = await paced.take();
      if (hasEnded()) return;
      if (why === undefined) {
        dueAt = begunAt + everyMs;
        overdue = false;
        triedAt = -Infinity;
        if (isDue && behind !== undefined) paced.missed(behind, 1);
        skip('the checkpoint before was still being saved');
      } else {
        triedAt = clock.now();
        if (isDue) {
          skip(why);
          overdue = true;
        }
      }
    }
    const restMs = Math.max(0, dueAt - clock.now());
    const looks = overdue || afterWrittenBytes !== undefined;
    await clock.sleep(looks ? Math.min(pollMs, restMs) : restMs, signal);
  }
}
