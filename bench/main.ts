/**
 * Benchmarks: `main.js [cpu] [disk] [checkpoint] [restore] [mount] [transfer] [--only TEXT] [--quick] [--json | --markdown]`, all by default. Each runs
 * in a process of its own, so that none disturbs the next, with a temporary directory of its own that is removed
 * on every path. `--quick` shows that they work, with figures that mean nothing. Ends with 1 when a target is
 * not met.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { cpus, loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { printMarkdown, printTable, type Row } from './row.js';
import { ended, spawnTied } from './tied.js';

const benches = {
  cpu: async () => (await import('./cpu.js')).cpu(),
  disk: async (quick: boolean) => (await import('./disk.js')).disk(quick),
  checkpoint: async (quick: boolean) => (await import('./checkpoint.js')).checkpoint(quick),
  restore: async (quick: boolean) => (await import('./restore.js')).restore(quick),
  mount: async (quick: boolean) => (await import('./mount.js')).mount(quick),
  transfer: async (quick: boolean) => (await import('./transfer.js')).transfer(quick),
};
type Name = keyof typeof benches;
const flags = ['--json', '--markdown', '--quick', '--child'];

const isName = (text: string): text is Name => Object.hasOwn(benches, text);
const args = process.argv.slice(2);
const onlyAt = args.indexOf('--only');
const only = onlyAt < 0 ? [] : args.splice(onlyAt, 2);
const [json, quick] = [args.includes('--json'), args.includes('--quick')];
const unknown = args.find((arg) => !flags.includes(arg) && !isName(arg));
if (unknown !== undefined) {
  process.stderr.write(
    `bench: no benchmark ${unknown}; there are: ${Object.keys(benches).join(', ')}\n`,
  );
  process.exit(2);
}
const chosen = args.filter(isName);

/** The rows of one benchmark, run in a child. */
async function run(name: Name): Promise<Row[]> {
  const scratch = await mkdtemp(join(tmpdir(), 'ckptfs-bench-'));
  const child = spawnTied(
    process.execPath,
    [fileURLToPath(import.meta.url), '--child', name, ...(quick ? ['--quick'] : []), ...only],
    ['ignore', 'pipe', 'inherit'],
    { ...process.env, TMPDIR: scratch },
  );
  const stop = (): void => {
    process.exitCode = 130;
    child.kill('SIGKILL');
  };
  process.once('SIGINT', stop).once('SIGTERM', stop);
  let output = '';
  child.stdout?.on('data', (data: Buffer) => (output += data.toString()));
  try {
    const code = await ended(child);
    if (code !== 0) throw new Error(`the benchmark ${name} ended with ${code ?? 'a signal'}`);
    return JSON.parse(output) as Row[];
  } finally {
    process.off('SIGINT', stop).off('SIGTERM', stop);
    await rm(scratch, { recursive: true, force: true, maxRetries: 3 });
  }
}

if (args.includes('--child')) {
  for (const name of chosen) {
    process.stdout.write(`${JSON.stringify(await benches[name](quick))}\n`);
  }
} else {
  const rows: Row[] = [];
  for (const name of chosen.length > 0 ? chosen : (Object.keys(benches) as Name[])) {
    process.stderr.write(`bench: ${name} ...\n`);
    rows.push(...(await run(name)));
  }
  if (json) {
    for (const r of rows) {
      const ratio =
        r.peerValue === undefined || r.value === undefined ? {} : { ratio: r.value / r.peerValue };
      process.stdout.write(`${JSON.stringify({ ...r, ...ratio })}\n`);
    }
  } else if (args.includes('--markdown')) {
    printMarkdown(rows);
  } else {
    process.stdout.write(
      `${cpus().length} × ${cpus()[0]?.model}, load ${loadavg()[0]?.toFixed(2)}: a shared machine, so the figures ` +
        'vary from run to run; compare within one run\n\n',
    );
    printTable(rows);
  }
  if (rows.some((r) => !r.ok)) process.exitCode = 1;
}
