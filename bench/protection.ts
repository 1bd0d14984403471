/**
 * A guest of 512 MiB under protection over ssh (requirement D7): how old its newest checkpoint at the far end has ever
 * been, and what that has cost the guest, whose hart is never idle: it writes to 30 MiB a second, in blocks. Its pace is
 * the mean of before and after.
 */
import { join } from 'node:path';
import type { ProtectionStatus } from '../src/vmm/protection.js';
import { main } from '../test/support/cli.js';
import { bareConfig, boot, temporaryStore } from '../test/support/guests.js';
import type { Hosts } from '../test/support/hosts.js';
import { mib } from './guest.js';
import { baselineRate, lostWorkMs, sleep, steady } from './progress.js';
import { makeRandomFile } from './random_file.js';
import { median, row, type Row, rowsOf } from './row.js';
import { ended, spawnTied } from './tied.js';

const bench = 'transfer';
const writesPerSecond = 960;
const mostRpoS = 10;
/** A checkpoint has to be taken and sent before the one before it is too old. */
const everyMs = 7_000;
const quickEveryMs = 1_000;
const intervals = 5;

export async function protection(hosts: Hosts, quick: boolean): Promise<Row[]> {
  const runs: Run[] = [];
  return rowsOf(bench, 'protection over ssh', async () => {
    for (let i = 0; i < (quick ? 1 : 3); i++) runs.push(await runOnce(hosts, quick));
    const middle = (of: (run: Run) => number): number => median(runs.map(of));
    const name = `protection over ssh, 512 MiB, 30 MiB/s written, every ${(quick ? quickEveryMs : everyMs) / 1000} s`;
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

async function runOnce(hosts: Hosts, quick: boolean): Promise<Run> {
  const { store, remove } = await temporaryStore();
  try {
    const initrd = join(store.root, '..', 'initrd');
    await makeRandomFile(initrd, (quick ? 24 : 384) * mib);
    const memoryBytes = (quick ? 64 : 512) * mib;
    const { vm } = await boot(
      store,
      bareConfig('random-writer', `rate=${writesPerSecond}`, { name: 'web', initrd, memoryBytes }),
    );
    try {
      await vm.serve();
      const far = hosts.url(join(store.root, '..', 'far'));
      const every = quick ? quickEveryMs : everyMs;
      const guest = { steps: () => vm.status().instructions };
      const now = () => ({ atMs: performance.now(), count: guest.steps() });
      await steady(guest);
      const before = await baselineRate(guest);
      const begin = now();
      const status = await protectFor(hosts, store.root, far, every, intervals * every);
      const end = now();
      await steady(guest);
      // A processor's own pace changes by some hundredths within a minute.
      const pace = (before + (await baselineRate(guest))) / 2;
      return { status, lostMs: lostWorkMs([begin, end], pace), watchedMs: end.atMs - begin.atMs };
    } finally {
      await vm.close();
    }
  } finally {
    await remove();
  }
}

/** Protects the VM for so long, and ends that as a person does. */
async function protectFor(
  hosts: Hosts,
  store: string,
  to: string,
  every: number,
  forMs: number,
): Promise<ProtectionStatus> {
  const words = ['protect', 'web', '--to', to, '--every', `${every / 1000}s`, '--keep', '3'];
  const child = spawnTied(
    'ip',
    ['netns', 'exec', hosts.near, process.execPath, main, ...words, '--json', '--store', store],
    ['ignore', 'pipe', 'pipe'],
    hosts.environment,
  );
  let [output, errors] = ['', ''];
  child.stdout?.on('data', (piece: Buffer) => (output += piece.toString()));
  child.stderr?.on('data', (piece: Buffer) => (errors += piece.toString()));
  const end = ended(child);
  await Promise.race([sleep(forMs), end]);
  child.kill('SIGTERM');
  const code = await end;
  const told = output
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as ProtectionStatus & { type: string });
  const result = told.find(({ type }) => type === 'result');
  if (code !== 0 || !result || result.shipped < 2) {
    throw new Error(`protection ended with ${code}: ${errors || output}`);
  }
  return result;
}
