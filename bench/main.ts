/**
 * Benchmarks: `main.js [cpu] [checkpoint] [restore] [--json]`, all by default. Each runs in a process of its
 * own, so that none disturbs the next. Ends with 1 when a target is not met.
 */
import { execFile } from 'node:child_process';
import { cpus, loadavg } from 'node:os';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { printTable, type Row } from './row.js';

const benches = {
  cpu: async () => (await import('./cpu.js')).cpu(),
  checkpoint: async () => (await import('./checkpoint.js')).checkpoint(),
  restore: async () => (await import('./restore.js')).restore(),
};
type Name = keyof typeof benches;

const isName = (text: string): text is Name => Object.hasOwn(benches, text);
const args = process.argv.slice(2);
const json = args.includes('--json');
const unknown = args.find((arg) => arg !== '--json' && arg !== '--child' && !isName(arg));
if (unknown !== undefined) {
  process.stderr.write(
    `bench: no benchmark ${unknown}; there are: ${Object.keys(benches).join(', ')}\n`,
  );
  process.exit(2);
}
const chosen = args.filter(isName);

if (args.includes('--child')) {
  for (const name of chosen) process.stdout.write(`${JSON.stringify(await benches[name]())}\n`);
} else {
  const rows: Row[] = [];
  for (const name of chosen.length > 0 ? chosen : (Object.keys(benches) as Name[])) {
    process.stderr.write(`bench: ${name} ...\n`);
    const { stdout } = await promisify(execFile)(process.execPath, [
      fileURLToPath(import.meta.url),
      '--child',
      name,
    ]);
    rows.push(...(JSON.parse(stdout) as Row[]));
  }
  if (json) {
    for (const r of rows) {
      const ratio = r.peerValue === undefined ? {} : { ratio: r.value / r.peerValue };
      process.stdout.write(`${JSON.stringify({ ...r, ...ratio })}\n`);
    }
  } else {
    process.stdout.write(
      `${cpus().length} × ${cpus()[0]?.model}, load ${loadavg()[0]?.toFixed(2)}: a shared machine, so the figures ` +
        'vary from run to run; compare within one run\n\n',
    );
    printTable(rows);
  }
  if (rows.some((r) => !r.ok)) process.exitCode = 1;
}
