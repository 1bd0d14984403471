/**
 * The soak (test/support/soak.ts) for as long as one asks: `npm run soak -- [--minutes 60] [--seed N]`. Prints the
 * totals once a minute and at the end; ends with 1 at the first fault, and keeps the store for a look then.
 */
import { rmSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { Store } from '../src/checkpoint/store.js';
import { soak, totalsLine } from '../test/support/soak.js';

const limitBytes = 20 * 2 ** 30;

const { values } = parseArgs({
  options: {
    minutes: { type: 'string', default: '60' },
    seed: { type: 'string', default: String(Date.now() % 1_000_000) },
  },
});
const [minutes, seed] = [Number(values.minutes), Number(values.seed)];
if (!(minutes > 0) || !Number.isInteger(seed)) {
  process.stderr.write('usage: npm run soak -- [--minutes N] [--seed N]\n');
  process.exit(2);
}
const scratch = await mkdtemp(join(tmpdir(), 'ckptfs-soak-'));
for (const signal of ['SIGINT', 'SIGTERM']) {
  process.once(signal, () => {
    rmSync(scratch, { recursive: true, force: true });
    process.exit(130);
  });
}
const say = (line: string): void => void process.stdout.write(`${line}\n`);
say(`soak: ${minutes} minutes, seed ${seed}, in ${scratch}`);
try {
  const store = await Store.open(join(scratch, 'store'), { create: true });
  say(totalsLine(await soak(store, { minutes, seed, limitBytes, say })));
  await rm(scratch, { recursive: true, force: true });
  say('soak: passed');
} catch (error) {
  process.stderr.write(`soak: ${(error as Error).stack ?? ''}\nsoak: the store is ${scratch}\n`);
  process.exitCode = 1;
}
