/** The protection of VMs as people see it: a table, and a line of `info`. */
import type { ProtectionStatus } from '../vmm/protection.js';
import type { Table } from './output.js';
import { formatMs, formatSize } from './sizes.js';

type Row = ProtectionStatus & { vm: string };

/** What is going on, or what does not work. */
function stateOf({ active, endedAt, failures }: ProtectionStatus): string {
  if (!active) return endedAt === undefined ? 'broken off' : 'ended';
  const failing = Object.keys(failures);
  return failing.length === 0 ? 'active' : `${failing.join(', ')} failing`;
}

const rpoOf = ({ rpoMs }: ProtectionStatus): string =>
  rpoMs === undefined ? 'none' : formatMs(rpoMs);

const worstOf = ({ newest, worstRpoMs }: ProtectionStatus): string =>
  newest === undefined ? 'none' : formatMs(worstRpoMs);

export const protectionTable: Table<Row> = {
  columns: [
    { title: 'VM', value: ({ vm }) => vm },
    { title: 'STATE', value: stateOf },
    { title: 'RPO', value: rpoOf, right: true },
    { title: 'WORST', value: worstOf, right: true },
    { title: 'TAKEN', value: ({ taken }) => String(taken), right: true },
    { title: 'SENT', value: ({ shipped }) => String(shipped), right: true },
    { title: 'MISSED', value: ({ missed }) => String(missed), right: true },
    { title: 'BYTES', value: ({ shippedBytes }) => formatSize(shippedBytes), right: true },
    { title: 'TO', value: ({ to }) => to },
  ],
  brief: (row) => `${row.vm} ${stateOf(row)}`,
  none: 'no VM is or was protected',
};

/** In one line, with the reasons for what was missed and for what fails. */
export function describeProtection(status: ProtectionStatus): string {
  const { to, everyMs, taken, shipped, shippedBytes, missed, lastMissed, failures } = status;
  return [
    `${stateOf(status)}, every ${formatMs(everyMs)} to ${to}`,
    `RPO ${rpoOf(status)}, at worst ${worstOf(status)}`,
    `${taken} taken, ${shipped} sent (${formatSize(shippedBytes)})`,
    `${missed} intervals missed${lastMissed ? ` (last: ${lastMissed.why})` : ''}`,
    ...Object.entries(failures).map(([step, { message }]) => `${step}: ${message}`),
  ].join('; ');
}
