#!/usr/bin/env node
/**
 * mount.fuse.ckptfs: what mount(8) runs for the type fuse.ckptfs, from fstab or by -t. Takes the arguments of any mount
 * helper, runs `ckptfs mount`, and gives the exit codes that mount(8) knows.
 */
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { exitCodes } from '../errors.js';

const main = fileURLToPath(new URL('main.js', import.meta.url));
const usage = 'give a store and a directory: mount.fuse.ckptfs STORE DIR [-sfnv] [-o OPTIONS]';
/** Of mount(8). */
const codes = { done: 0, usage: 1, failed: 32 };

process.exitCode = run(process.argv.slice(2));

function run(args: string[]): number {
  let parsed;
  try {
    parsed = parseArgs({
      args,
      allowPositionals: true,
      options: {
        options: { type: 'string', short: 'o', multiple: true },
        // Of these, fake and verbose mean something here; others ask for what is so anyway.
        fake: { type: 'boolean', short: 'f' },
        verbose: { type: 'boolean', short: 'v' },
        nomtab: { type: 'boolean', short: 'n' },
        sloppy: { type: 'boolean', short: 's' },
        namespace: { type: 'string', short: 'N' },
        type: { type: 'string', short: 't' },
      },
    });
  } catch (error) {
    return fail((error as Error).message);
  }
  const { values, positionals } = parsed;
  const [store, directory, ...others] = positionals;
  if (store === undefined || directory === undefined || others.length > 0) return fail(usage);
  if (values.fake === true) return codes.done;
  const command = [
    'mount',
    ...['-o', (values.options ?? []).join(',')],
    ...(values.sloppy === true ? ['--sloppy'] : []),
    ...['--', store, directory],
  ];
  const stdout = values.verbose === true ? 'inherit' : 'ignore';
  const { status } = spawnSync(process.execPath, [main, ...command], {
    stdio: ['ignore', stdout, 'inherit'],
  });
  if (status === exitCodes.done) return codes.done;
  return status === exitCodes.usage ? codes.usage : codes.failed;
}

function fail(message: string): number {
  process.stderr.write(`mount.fuse.ckptfs: ${message}\n`);
  return codes.usage;
}
