/**
 * One measured value, and how rows are printed: a table for people, one JSON object a line with --json.
 */
export interface Row {
  bench: string;
  case: string;
  value: number;
  unit: string;
  /** What it is measured against in the same run. */
  peer?: string;
  peerValue?: number;
  target?: string;
  /** Whether the target is met; true where there is none. */
  ok: boolean;
}

/** A row with a target: `atMost` or `atLeast` in the row's unit. */
export function row(
  bench: string,
  name: string,
  value: number,
  unit: string,
  target: { atMost?: number; atLeast?: number } = {},
  peer?: { name: string; value: number },
): Row {
  const { atMost, atLeast } = target;
  return {
    bench,
    case: name,
    value,
    unit,
    ...(peer ? { peer: peer.name, peerValue: peer.value } : {}),
    ...(atMost === undefined ? {} : { target: `≤ ${atMost}` }),
    ...(atLeast === undefined ? {} : { target: `≥ ${atLeast}` }),
    ok: (atMost === undefined || value <= atMost) && (atLeast === undefined || value >= atLeast),
  };
}

export function median(values: readonly number[]): number {
  return percentile(values, 0.5);
}

/** The value below which `share` of the values lie (nearest rank). */
export function percentile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.ceil(share * sorted.length) - 1)] ?? NaN;
}

function figure(value: number): string {
  if (value >= 1000) return value.toFixed(0);
  return value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2);
}

/** The table: bench, case, value, unit, peer, ratio, target, ok. */
export function printTable(rows: readonly Row[]): void {
  const cells = rows.map((r) => [
    r.bench,
    r.case,
    `${figure(r.value)} ${r.unit}`,
    r.peer === undefined ? '' : `${r.peer}: ${figure(r.peerValue ?? NaN)} ${r.unit}`,
    r.peerValue === undefined ? '' : figure(r.value / r.peerValue),
    r.target ?? '',
    r.target === undefined ? '' : r.ok ? 'ok' : 'NOT MET',
  ]);
  const head = ['bench', 'case', 'value', 'peer', 'ratio', 'target', ''];
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
}
