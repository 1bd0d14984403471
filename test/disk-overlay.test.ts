/**
 * The disks of a checkpoint in a mount with `-o rw`, in the hands of e2fsck, a loop mount and fio: they hold what
 * is written to them, the checkpoint stays as it is, and the end of the mount discards the rest. The guest had
 * its filesystem mounted at the checkpoint, so its journal has to be replayed.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { copyFile, mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import t from 'tap';
import { openDisk } from '../src/native.js';
import { diskLayers, findCheckpoint, openCheckpoint } from '../src/checkpoint/checkpoints.js';
import { command, eventually, noFuse } from './fs-harness.js';
import { sourceHash } from './support/chains.js';
import { mountStore, start, withStore } from './support/cli.js';
import { linuxGuest, temporaryDirectory, until } from './support/guests.js';
import { runLinux } from './support/shell.js';

t.setTimeout(300_000);

const rawBytes = 8 * 2 ** 20;
const notRoot = process.getuid?.() === 0 ? false : 'not root: no loop mounts';

/** fio writes all of a disk at random, with fsyncs, and checks it; or checks what an earlier run has written. */
function fio(disk: string, ...options: string[]): { status: number | null; stderr: string } {
  return spawnSync(
    'fio',
    [
      ...[
        '--name=overlay',
        `--filename=${disk}`,
        `--size=${rawBytes}`,
        '--rw=randwrite',
        '--bs=4k',
      ],
      ...['--ioengine=psync', '--direct=0', '--fsync=64', '--verify=crc32c', '--verify_fatal=1'],
      ...['--allow_file_create=0', '--verify_state_save=0', '--randseed=1', ...options],
    ],
    { encoding: 'utf8' },
  );
}

t.test('a writable mount', { skip: noFuse() }, async (t) => {
  const scratch = await temporaryDirectory();
  t.teardown(scratch.remove);
  const path = (name: string) => join(scratch.path, name);
  await mkdir(path('tmp'));
  process.env.TMPDIR = path('tmp'); // of the process that mounts
  const cli = await withStore(t);
  const { store, ckptfs } = cli;
  await copyFile(linuxGuest.disk, path('vda'));
  await writeFile(path('vdb'), randomBytes(rawBytes));
  const disks = ['--disk', `${path('vda')},mode=persistent`, '--disk', path('vdb')];
  const { child } = start(store, [...(await runLinux('files')), '--name', 'vm', ...disks]);
  let text = '';
  child.stdout?.on('data', (piece: string) => (text += piece));
  await until(
    'synced files',
    () => /durable 0 3 1\r?\n/.test(text) && text.includes('durable 1 3'),
  );
  t.match(await ckptfs('checkpoint', 'vm', '--name', 'one'), { status: 0 });
  await until('more of them', () => text.includes('durable 0 3 2'));
  await ckptfs('stop', 'vm');

  const { directory } = await findCheckpoint(store, 'vm@one');
  const { vda, vdb } = await shownDisks(directory);
  const stored = await storedHashes(directory, path('vda'), path('vdb'));
  const mount = await mountStore(t, cli, '-o', 'rw');
  const shown = (disk: string) => join(mount, 'vms/vm/checkpoints/one/disks', disk);

  await t.test('e2fsck replays the journal in place', async (t) => {
    t.match(await command('dumpe2fs', '-h', shown('vda')), 'needs_recovery');
    const { status } = spawnSync('e2fsck', ['-p', shown('vda')]);
    t.ok(status === 0 || status === 1, 'e2fsck replays it'); // 1: it mended something besides
    t.notMatch(await command('dumpe2fs', '-h', shown('vda')), 'needs_recovery');
    await command('e2fsck', '-fn', shown('vda'));
    t.not(await hash(shown('vda')), vda);
    t.match(await command('debugfs', '-R', 'stat /0/3', shown('vda')), /Type: regular/);
  });

  await t.test('the kernel writes to it through a loop mount', { skip: notRoot }, async (t) => {
    await mkdir(path('loop'));
    await command('mount', '-o', 'loop', shown('vda'), path('loop'));
    const contents = randomBytes(3_000_001);
    try {
      await writeFile(join(path('loop'), 'written'), contents);
      await command('rm', '-r', join(path('loop'), '1'));
    } finally {
      await command('umount', path('loop'));
    }
    await command('e2fsck', '-fn', shown('vda'));
    const cat = execFileSync('debugfs', ['-R', 'cat /written', shown('vda')], {
      maxBuffer: 2 * contents.length,
      stdio: 'pipe',
    });
    t.ok(cat.equals(contents));
  });

  await t.test('fio finds what it has written', async (t) => {
    t.not(fio(shown('vdb'), '--verify_only').status, 0, 'which is not there yet');
    t.match(fio(shown('vdb'), '--do_verify=1'), { status: 0, stderr: '' });
    t.match(fio(shown('vdb'), '--verify_only'), { status: 0, stderr: '' });
    t.not(await hash(shown('vdb')), vdb);
  });

  t.match(await ckptfs('verify', 'vm@one'), { status: 0 });
  t.match(await ckptfs('disk', 'check', 'vm@one:vda'), { status: 0 });
  t.same(await storedHashes(directory, path('vda'), path('vdb')), stored, 'not a byte of it');
  t.same(await shownDisks(directory), { vda, vdb });
  t.same(await overlays(path('tmp')), [], 'an overlay has no name');

  await eventually(t, 'it can be unmounted', async () => {
    return (await ckptfs('umount', mount)).status === 0;
  });
  const again = await mountStore(t, cli, '-o', 'rw');
  for (const [disk, expected] of [
    ['vda', vda],
    ['vdb', vdb],
  ] as const) {
    t.equal(await hash(join(again, 'vms/vm/checkpoints/one/disks', disk)), expected, 'discarded');
  }
});

async function hash(file: string): Promise<string> {
  return createHash('sha256')
    .update(await readFile(file))
    .digest('hex');
}

/** The sums of the disks that a checkpoint has. */
async function shownDisks(directory: string): Promise<{ vda: string; vdb: string }> {
  const checkpoint = await openCheckpoint(directory);
  const sum = async (id: string) => sourceHash(await openDisk(diskLayers(checkpoint, id)));
  return { vda: await sum('vda'), vdb: await sum('vdb') };
}

/** The sums of all files of a checkpoint and of others. */
async function storedHashes(directory: string, ...others: string[]): Promise<string[]> {
  const entries = await readdir(directory, { recursive: true, withFileTypes: true });
  const files = entries.filter((entry) => entry.isFile());
  const paths = files.map((entry) => join(entry.parentPath, entry.name)).sort();
  return Promise.all([...paths, ...others].map(async (path) => `${path} ${await hash(path)}`));
}

async function overlays(directory: string): Promise<string[]> {
  return (await readdir(directory)).filter((name) => name.startsWith('ckptfs-overlay'));
}
