/**
 * One measured value, and how rows are printed: a table for people, one JSON object a line with --json.
 */
export interface Row {
  bench: string;
  case: string;
  /** Absent when it could not be measured: `note` then says why, and the row is not ok. */
  value?: number;
  unit: string;
  /** What it is measured against in the same run. */
  peer?: string;
  peerValue?: number;
  target?: string;
  /** Whether the target is met; true where there is none. */
  ok: boolean;
  note?: string;
}

/** `atMost` and `atLeast` in the row's unit, the ratios as shares of the peer's value. All must hold. */
export interface Target {
  atMost?: number;
  atLeast?: number;
  ratioAtMost?: number;
  ratioAtLeast?: number;
}

export interface Peer {
  name: string;
  /** Undefined: the peer could not be measured, `why` says so, and a ratio is not reached. */
  value: number | undefined;
  why?: string | undefined;
}

export function row(
  bench: string,
  name: string,
  value: number,
  unit: string,
  target: Target = {},
  peer?: Peer,
): Row {
  if (!Number.isFinite(value)) return missing(bench, name, 'no value was measured');
  const { atMost, atLeast, ratioAtMost, ratioAtLeast } = target;
  const ratio = peer?.value === undefined ? NaN : value / peer.value;
  const conditions: [string, boolean][] = [];
  if (atMost !== undefined) conditions.push([`≤ ${atMost}`, value <= atMost]);
  if (atLeast !== undefined) conditions.push([`≥ ${atLeast}`, value >= atLeast]);
  if (ratioAtMost !== undefined) {
    conditions.push([`ratio ≤ ${figure(ratioAtMost)}`, ratio <= ratioAtMost]);
  }
  if (ratioAtLeast !== undefined) {
    conditions.push([`ratio ≥ ${figure(ratioAtLeast)}`, ratio >= ratioAtLeast]);
  }
  const noPeer = peer !== undefined && peer.value === undefined;
  return {
    bench,
    case: name,
    value,
    unit,
    ...(peer?.value === undefined ? {} : { peer: peer.name, peerValue: peer.value }),
    ...(conditions.length > 0 ? { target: conditions.map(([text]) => text).join(', ') } : {}),
    ok: !noPeer && conditions.every(([, holds]) => holds),
    ...(noPeer ? { note: `no ${peer.name}: ${peer.why ?? 'it was not measured'}` } : {}),
  };
}

/** The rows with a remark on how they were measured; `invalid` ones do not count as met. */
export function noted(rows: readonly Row[], remarks: readonly string[], invalid: boolean): Row[] {
  if (remarks.length === 0) return [...rows];
  const note = remarks.join('; ');
  return rows.map((r) => ({
    ...r,
    ok: r.ok && !invalid,
    note: r.note === undefined ? note : `${r.note}; ${note}`,
  }));
}

/** The row of something that could not be measured. */
export function missing(bench: string, name: string, why: unknown): Row {
  const note = (why instanceof Error ? why.message : String(why)).replace(/\s+/g, ' ').slice(-300);
  return { bench, case: name, unit: '', ok: false, note };
}

/** Of `--only TEXT`: just the parts with this in their name are measured. */
const only = process.argv[process.argv.indexOf('--only') + 1] ?? '';
const isWanted = (name: string): boolean => !process.argv.includes('--only') || name.includes(only);

/**
 * The rows of one part of a bench, which are told as they come; a failure in it is one row, and the other parts
 * go on.
 */
export async function rowsOf(bench: string, part: string, work: () => Promise<Row[]>) {
  if (!isWanted(`${bench}: ${part}`)) return [];
  process.stderr.write(`bench: ${bench}: ${part} ...\n`);
  const rows = await work().catch((error: unknown) => [missing(bench, part, error)]);
  for (const cells of cellsOf(rows)) process.stderr.write(`  ${cells.slice(1).join('  ')}\n`);
  return rows;
}

export function median(values: readonly number[]): number {
  return percentile(values, 0.5);
}

/** The value below which `share` of the values lie (nearest rank). */
export function percentile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.ceil(share * sorted.length) - 1)] ?? NaN;
}

export function figure(value: number): string {
  const size = Math.abs(value);
  return value.toFixed(size >= 100 ? 0 : size >= 10 ? 1 : size >= 0.1 ? 2 : 3);
}

const head = ['bench', 'case', 'value', 'peer', 'ratio', 'target', ''];

function cellsOf(rows: readonly Row[]): string[][] {
  return rows.map((r) => [
    r.bench,
    r.case,
    r.value === undefined ? '-' : `${figure(r.value)} ${r.unit}`,
    r.peerValue === undefined ? '' : `${r.peer ?? ''}: ${figure(r.peerValue)} ${r.unit}`,
    r.peerValue === undefined || r.value === undefined ? '' : figure(r.value / r.peerValue),
    r.target ?? '',
    !r.ok ? 'NOT MET' : r.target === undefined ? '' : 'ok',
  ]);
}

/** The table in Markdown, for docs/performance.md. */
export function printMarkdown(rows: readonly Row[]): void {
  const line = (parts: readonly string[]): string => `| ${parts.join(' | ')} |`;
  const lines = [head, head.map(() => '---'), ...cellsOf(rows)].map(line);
  process.stdout.write(`${lines.join('\n')}\n`);
  printNotes(rows);
}

/** What kept rows from being measured, or well. */
function printNotes(rows: readonly Row[]): void {
  for (const r of rows) {
    if (r.note !== undefined) process.stdout.write(`\n${r.bench}, ${r.case}: ${r.note}\n`);
  }
}

/** The table for people; notes below it. */
export function printTable(rows: readonly Row[]): void {
  const cells = cellsOf(rows);
  const widths = head.map((name, i) =>
    Math.max(name.length, ...cells.map((c) => c[i]?.length ?? 0)),
  );
  const line = (parts: readonly string[]): string =>
    parts
      .map((part, i) => part.padEnd(widths[i] ?? 0))
      .join('  ')
      .trimEnd();
  for (const parts of [head, widths.map((w) => '-'.repeat(w)), ...cells]) {
    process.stdout.write(`${line(parts)}\n`);
  }
  printNotes(rows);
}
