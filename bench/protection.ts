/**
 * A guest of 512 MiB under protection over ssh (requirement D7): how old its newest checkpoint at the far end has ever
 * been, and what that has cost the guest, whose hart is never idle: it writes to 30 MiB a second, in blocks. Its pace is
 * the mean of before and after.
 */
import { join } from 'node:path';
import type { ProtectionStatus } from '../src/vmm/protection.js';
import type { Hosts } from '../test/support/hosts.js';
import { resultsOf, startNear } from './command.js';
import { mib } from './guest.js';
import { baselineRate, lostWorkMs, sleep, steady } from './progress.js';
import { type RandomWriter, withRandomWriter } from './random_writer.js';
import { median, row, type Row, rowsOf } from './row.js';

const bench = 'transfer';
const mostRpoS = 10;
/** A checkpoint has to be taken and sent before the one before it is too old. */
const everyMs = 7_000;
const quickEveryMs = 1_000;
const intervals = 5;

export async function protection(hosts: Hosts, quick: boolean): Promise<Row[]> {
  return rowsOf(bench, 'protection over ssh', async () => {
    const every = quick ? quickEveryMs : everyMs;
    const runs: Run[] = [];
    for (let i = 0; i < (quick ? 1 : 3); i++) {
      runs.push(await withRandomWriter(quick, (writer) => measure(writer, hosts, every)));
    }
    const middle = (of: (run: Run) => number): number => median(runs.map(of));
    const name = `protection over ssh, 512 MiB, 30 MiB/s written, every ${every / 1000} s`;
    const rpoS = Math.max(...runs.map(({ status }) => status.worstRpoMs / 1000));
    const shipped = middle(({ status }) => status.shippedBytes / status.shipped / mib);
    return [
      row(bench, `${name}: RPO at worst`, rpoS, 's', { atMost: mostRpoS }),
      row(bench, `${name}: lost guest work`, middle(lostPercent), '%', { atMost: 5 }),
      row(bench, `${name}: a checkpoint`, shipped, 'MiB'),
    ];
  });
}

interface Run {
  status: ProtectionStatus;
  /** Of the guest's work, in ms of its own pace before and after. */
  lostMs: number;
  watchedMs: number;
}

const lostPercent = ({ lostMs, watchedMs }: Run): number => (100 * lostMs) / watchedMs;

async function measure(writer: RandomWriter, hosts: Hosts, every: number): Promise<Run> {
  const { vm, store, directory } = writer;
  const guest = { steps: () => vm.status().instructions };
  const now = () => ({ atMs: performance.now(), count: guest.steps() });
  await steady(guest);
  const before = await baselineRate(guest);
  const begin = now();
  const to = hosts.url(join(directory, 'far'));
  const status = await protectFor(hosts, store.root, to, every);
  const end = now();
  await steady(guest);
  // A processor's own pace changes by some hundredths within a minute.
  const pace = (before + (await baselineRate(guest))) / 2;
  return { status, lostMs: lostWorkMs([begin, end], pace), watchedMs: end.atMs - begin.atMs };
}

/** Protects the VM for some intervals, and ends that as a person does. */
async function protectFor(
  hosts: Hosts,
  store: string,
  to: string,
  every: number,
): Promise<ProtectionStatus> {
  const words = ['protect', 'web', '--to', to, '--every', `${every / 1000}s`, '--keep', '3'];
  const command = startNear(hosts, store, ...words);
  const results = resultsOf<ProtectionStatus>(command);
  await Promise.race([sleep(intervals * every), results]);
  command.child.kill('SIGTERM');
  const [status] = await results;
  if (!status || status.shipped < 2) throw new Error(`too few shipped: ${await command.output}`);
  return status;
}
