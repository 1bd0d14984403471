/**
 * The VM `web` of the documents, for tests with tools: a Linux guest with RAM and two disks, stopped, and two
 * checkpoints that were taken while it wrote. What they hold is told apart from the mount: by the guest itself,
 * and by `ckptfs export` and `ckptfs disk flatten`.
 */
import { randomBytes } from 'node:crypto';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Test } from 'tap';
import { withStore } from './cli.js';
import { temporaryDirectory } from './guests.js';
import { GuestShell } from './shell.js';
import { tool } from './tools.js';

export const checkpointNames = ['before', 'after'] as const;
export const diskIds = ['vda', 'vdb'] as const;
export const webMemoryBytes = 96 << 20;
const filesBytes = 16 << 20;
/** Not a multiple of a block. */
export const rawBytes = (4 << 20) + 512;

/** What the guest writes to /numbers on its first disk before the checkpoint of that name. */
export function numbers(checkpoint: (typeof checkpointNames)[number]): string {
  const last = checkpoint === 'before' ? 10_000 : 20_000;
  return Array.from({ length: last }, (_, i) => `${i + 1}\n`).join('');
}

export interface Web {
  cli: Awaited<ReturnType<typeof withStore>>;
  /** A path in the test's own directory. */
  path: (name: string) => string;
  /** A plain file with what a file of a checkpoint has to hold: `expected('before', 'disks/vda')`. */
  expected: (checkpoint: string, file: string) => string;
}

/** Runs the guest, takes the checkpoints, stops it; all of it goes with the test. */
export async function makeWeb(t: Test): Promise<Web> {
  const scratch = await temporaryDirectory();
  t.teardown(scratch.remove);
  const path = (name: string) => join(scratch.path, name);
  const expected = (checkpoint: string, file: string) => path(`expected/${checkpoint}/${file}`);
  const cli = await withStore(t);
  const ckptfs = async (...args: string[]): Promise<void> => {
    const { status, stderr } = await cli.ckptfs(...args);
    if (status !== 0) throw new Error(`${args.join(' ')}: ${stderr}`);
  };

  await writeFile(path('vda.img'), '');
  await tool('mke2fs', '-q', '-F', '-t', 'ext4', path('vda.img'), `${filesBytes >> 10}k`);
  await writeFile(path('vdb.img'), randomBytes(rawBytes));
  const shell = await GuestShell.boot(
    cli.store,
    ...['--name', 'web', '--memory', `${webMemoryBytes >> 20}M`],
    ...['--disk', path('vda.img'), '--disk', path('vdb.img')],
  );
  for (const name of checkpointNames) {
    await shell.run(`seq 1 ${numbers(name).trimEnd().split('\n').length} > /disk/numbers && sync`);
    await shell.run(`seq 1 2000 | sed s/$/${name}/ | dd of=/dev/vdb bs=512 seek=7 conv=notrunc`);
    await ckptfs('checkpoint', 'web', '--name', name, '--copy-disks');
  }
  await ckptfs('stop', 'web');

  for (const name of checkpointNames) {
    await mkdir(expected(name, 'disks'), { recursive: true });
    await ckptfs('export', `web@${name}`, '-o', expected(name, 'memory'));
    for (const disk of diskIds) {
      await ckptfs('disk', 'flatten', `web@${name}:${disk}`, '-o', expected(name, `disks/${disk}`));
    }
  }
  return { cli, path, expected };
}
