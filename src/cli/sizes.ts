/** Sizes and times between people and programs. Sizes are powers of 1024, as in every command. */
import { CkptError } from '../errors.js';

const units = ['', 'K', 'M', 'G', 'T'] as const;

/** Reads `512M`, `1G`, `65536`: a whole number and K, M, G or T. USAGE for anything else; `what` names it. */
export function parseSize(text: string, what = 'size'): number {
  const match = /^(\d{1,16})([KMGT]?)$/i.exec(text);
  const power = units.indexOf((match?.[2] ?? '').toUpperCase() as (typeof units)[number]);
  const bytes = Number(match?.[1]) * 1024 ** power;
  if (match !== null && Number.isSafeInteger(bytes)) return bytes;
  throw new CkptError(
    'USAGE',
    `${JSON.stringify(text)} is not a ${what}; give a whole number, with K, M, G or T for powers of 1024`,
    { value: text },
  );
}

/** Reads a whole number of at least `least`. */
export function parseCount(text: string, what: string, least: number): number {
  const value = /^\d{1,9}$/.test(text) ? Number(text) : NaN;
  if (value >= least) return value;
  throw new CkptError(
    'USAGE',
    `${JSON.stringify(text)} is not a ${what}; give a whole number of at least ${least}`,
    { value: text },
  );
}

/** Reads `50M` or `50M/s`: bytes a second, at least 1. */
export function parseRate(text: string): number {
  const bytes = parseSize(text.replace(/\/s$/, ''), 'rate');
  if (bytes > 0) return bytes;
  throw new CkptError('USAGE', 'a rate of 0 would never end; give a higher one, or none', {
    value: text,
  });
}

const secondsOf: Record<string, number> = { s: 1, m: 60, h: 3600, d: 86_400 };

/** Reads `30s`, `10m`, `6h`, `1d`: a whole number of at least 1, and its unit. In seconds. */
export function parseInterval(text: string): number {
  const [, number, unit = ''] = /^(\d{1,9})([smhd])$/.exec(text) ?? [];
  const seconds = Number(number) * (secondsOf[unit] ?? NaN);
  if (seconds >= 1) return seconds;
  throw new CkptError(
    'USAGE',
    `${JSON.stringify(text)} is not an interval; give a whole number and s, m, h or d, such as 10m`,
    { value: text },
  );
}

/** 1536 → "1.5 KiB"; three significant digits. */
export function formatSize(bytes: number): string {
  let value = bytes;
  let unit = 0;
  // 1023.5 would print as 1024 of the smaller unit.
  while (value >= 1023.5 && unit < units.length - 1) {
    value /= 1024;
    unit++;
  }
  if (unit === 0) return `${bytes} B`;
  const digits = value < 9.995 ? 2 : value < 99.95 ? 1 : 0;
  return `${Number(value.toFixed(digits))} ${units[unit] ?? ''}iB`;
}

/** 4096 → "0x0000001000", so that offsets in a column align. */
export function formatOffset(offset: number): string {
  return `0x${offset.toString(16).padStart(10, '0')}`;
}

/** 12345 → "12.3 ms"; three significant digits. */
export function formatUs(us: number): string {
  const [value, unit] =
    us < 999.5 ? [us, 'µs'] : us < 999_500 ? [us / 1e3, 'ms'] : ([us / 1e6, 's'] as const);
  const digits = value < 9.995 ? 2 : value < 99.95 ? 1 : 0;
  return `${Number(value.toFixed(digits))} ${unit}`;
}

/** 90_000 → "1.5 min"; three significant digits, up to days. */
export function formatMs(ms: number): string {
  const [value, unit] =
    ms < 59_950
      ? [undefined, '']
      : ms < 3_597_000
        ? [ms / 60_000, 'min']
        : ms < 86_328_000
          ? [ms / 3_600_000, 'h']
          : ([ms / 86_400_000, 'd'] as const);
  if (value === undefined) return formatUs(ms * 1000);
  return `${Number(value.toFixed(value < 9.995 ? 2 : value < 99.95 ? 1 : 0))} ${unit}`;
}

/** The time of day in UTC to the second: 2026-11-20 10:15:00Z. */
export function formatTime(time: Date): string {
  return time
    .toISOString()
    .replace('T', ' ')
    .replace(/\.\d+Z$/, 'Z');
}
