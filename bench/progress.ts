/**
 * The progress of a guest while something is done to it, and what that cost the guest.
 *
 * Lost guest work is the time in ms that the steps which were not made would have taken at the guest's own
 * rate before: the sum of 1 - rate / baseline over the time until the rate is back, every pause included.
 */
export interface Sample {
  atMs: number;
  count: number;
}

/** Something whose progress can be read at any moment. */
export interface Progressing {
  steps(): number;
}

const sampleMs = 2;
const baselineMs = 1500;
/** The rate is back when it has been this share of the baseline for as long as the window. */
const backShare = 0.95;
const backWindowMs = 250;
const longestTailMs = 3_000;
const steadyWindowMs = 400;
const steadyShare = 0.03;
const longestSteadyMs = 10_000;

export const sleep = (ms: number): Promise<void> =>
  new Promise((resolve) => setTimeout(resolve, ms));

/** Steps a second over a run of samples. */
export function rate(samples: readonly Sample[]): number {
  const [first, last] = [samples[0], samples.at(-1)];
  if (!first || !last || last.atMs === first.atMs) return 0;
  return ((last.count - first.count) / (last.atMs - first.atMs)) * 1000;
}

/** Lost guest work in ms over all of the samples. */
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

/** The samples of the last `windowMs`. */
function recent(samples: readonly Sample[], windowMs: number): readonly Sample[] {
  const end = samples.at(-1)?.atMs ?? 0;
  return samples.slice(samples.findIndex((sample) => sample.atMs >= end - windowMs));
}

/** Samples until `enough` says so. */
async function sampleUntil(
  guest: Progressing,
  enough: (samples: readonly Sample[]) => boolean,
): Promise<Sample[]> {
  const samples: Sample[] = [];
  do {
    samples.push({ atMs: performance.now(), count: guest.steps() });
    await sleep(sampleMs);
  } while (!enough(samples));
  return samples;
}

/** The guest's rate now, in steps a second. */
export async function baselineRate(guest: Progressing): Promise<number> {
  const endMs = performance.now() + baselineMs;
  return rate(await sampleUntil(guest, () => performance.now() >= endMs));
}

/**
 * Waits until the guest's rate has been the same for three windows in a row, but not for ever: false when it has
 * not, as on a machine that does other work too.
 */
export async function steady(guest: Progressing): Promise<boolean> {
  const rates: number[] = [];
  for (const end = performance.now() + longestSteadyMs; performance.now() < end;) {
    const before = { atMs: performance.now(), count: guest.steps() };
    await sleep(steadyWindowMs);
    rates.push(rate([before, { atMs: performance.now(), count: guest.steps() }]));
    const last = rates.slice(-3);
    const [low, high] = [Math.min(...last), Math.max(...last)];
    if (last.length === 3 && low > 0 && (high - low) / high <= steadyShare) return true;
  }
  return false;
}

export interface Cost<T> {
  result: T;
  lostMs: number;
  longestStallMs: number;
  /** From the start of the work until the guest's rate was back. */
  untilBackMs: number;
  /** Whether it came back. If not, more is lost than was seen: `lostMs` is a lower bound. */
  back: boolean;
}

/**
 * Does something to a guest whose rate before is `baseline`, and tells what it cost until the rate was back, at
 * most `tailMs` after the work. Work that fails rejects at once.
 */
export async function costOf<T>(
  guest: Progressing,
  baseline: number,
  work: () => Promise<T>,
  tailMs = longestTailMs,
): Promise<Cost<T>> {
  let doneMs = Infinity;
  let failed = false;
  const working = work().finally(() => (doneMs = performance.now()));
  working.catch(() => (failed = true));
  let back = false;
  const samples = await sampleUntil(guest, (all) => {
    const now = performance.now();
    if (failed) return true;
    if (now < doneMs + backWindowMs) return false;
    back = rate(recent(all, backWindowMs)) >= backShare * baseline;
    return back || now > doneMs + tailMs;
  });
  const result = await working;
  const untilBackMs = (samples.at(-1)?.atMs ?? 0) - (samples[0]?.atMs ?? 0);
  return {
    result,
    lostMs: lostWorkMs(samples, baseline),
    longestStallMs: longestStallMs(samples),
    untilBackMs,
    back,
  };
}
