/**
 * The progress of a bare-metal guest, read by the host: the counters of its status page
 * (test/guests/bare/bare.h), sampled while something is done to the guest.
 */
import type { ByteSource } from '../src/native.js';

const statusOffset = 0x21_0000;
const lineBytes = 64;
const maxHarts = 8;

export interface Sample {
  atMs: number;
  count: number;
}

/** Sum of the progress counters of all harts. */
export async function readProgress(memory: ByteSource): Promise<number> {
  const page = Buffer.alloc(lineBytes * maxHarts);
  await memory.read(page, statusOffset);
  let sum = 0n;
  for (let hart = 0; hart < maxHarts; hart++) sum += page.readBigUInt64LE(hart * lineBytes);
  return Number(sum);
}

/** Samples the guest's progress every `intervalMs` until `work` is done, and for `tailMs` after it. */
export async function sampleDuring<T>(
  memory: ByteSource,
  intervalMs: number,
  tailMs: number,
  work: () => Promise<T>,
): Promise<{ result: T; samples: Sample[] }> {
  const samples: Sample[] = [];
  let endMs = Infinity;
  const sampling = (async () => {
    do {
      const count = await readProgress(memory);
      samples.push({ atMs: performance.now(), count });
      await new Promise((resolve) => setTimeout(resolve, intervalMs));
    } while (performance.now() < endMs);
  })();
  try {
    return { result: await work(), samples };
  } finally {
    endMs = performance.now() + tailMs;
    await sampling;
  }
}

/** Steps a second over a run of samples. */
export function rate(samples: readonly Sample[]): number {
  const [first, last] = [samples[0], samples.at(-1)];
  if (!first || !last || last.atMs === first.atMs) return 0;
  return ((last.count - first.count) / (last.atMs - first.atMs)) * 1000;
}

/**
 * Lost guest work in ms: the time that the steps which were not made would have taken at `baseline` steps a
 * second, the pause included.
 */
export function lostWorkMs(samples: readonly Sample[], baseline: number): number {
  const [first, last] = [samples[0], samples.at(-1)];
  if (!first || !last) return 0;
  return last.atMs - first.atMs - ((last.count - first.count) / baseline) * 1000;
}

/** The longest time in ms in which the guest made no step, as far as the samples tell. */
export function longestStallMs(samples: readonly Sample[]): number {
  let longest = 0;
  let since = samples[0];
  for (const sample of samples) {
    if (since === undefined || sample.count > since.count) since = sample;
    longest = Math.max(longest, sample.atMs - since.atMs);
  }
  return longest;
}
