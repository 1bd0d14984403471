/**
 * Checkpoints of a real VM taken by mkdir and removed by rmdir: in the mount of a store, and in that of the VM's
 * own process, while a guest writes.
 */
import { mkdir, readdir, readFile, rmdir, stat, truncate } from 'node:fs/promises';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { mountOn, unmountPath } from '../src/fs/mounts.js';
import { command, failure, noFuse } from './fs-harness.js';
import { endless, mountStore, withStore } from './support/cli.js';
import { until } from './support/guests.js';

t.setTimeout(300_000);

const skip = noFuse();

/** Goes through the life of a checkpoint in `directory`, the checkpoints/ of the running VM w. */
async function comeAndGo(t: Test, cli: Awaited<ReturnType<typeof withStore>>, directory: string) {
  const { ckptfs, store } = cli;
  const json = async (...args: string[]) => (await ckptfs(...args, '--json')).objects.at(-1);
  const instructions = async () => Number((await json('info', 'w'))?.instructions);
  const path = (name: string) => join(directory, name);
  const before = await instructions();
  await command('mkdir', path('one'));
  t.same(await readdir(directory), ['latest', 'one']);
  t.same(await readdir(path('one')), [
    ...['device-state.json', 'disks', 'image', 'manifest.json', 'memory', 'memory.elf'],
  ]);
  t.match(await json('verify', 'w@one'), { type: 'result' });
  t.ok((await instructions()) > before, 'the guest runs on');
  t.match(await failure('mkdir', path('one')), 'File exists');
  t.match(await failure('mkdir', path('.one')), 'Invalid argument');

  const both = [mkdir(path('two')), ckptfs('checkpoint', 'w', '--name', 'three')] as const;
  const [made, taken] = await Promise.allSettled(both);
  // One at a time: the other one is told so.
  const names = await readdir(directory);
  const busy = made.status === 'rejected';
  if (busy) t.match(made.reason, { code: 'EBUSY' });
  t.equal(names.includes('two'), !busy);
  t.match(taken, { status: 'fulfilled', value: { status: names.includes('three') ? 0 : 11 } });

  t.ok((await readFile(join(path('one'), 'memory'))).length === 2 ** 24);
  await command('rmdir', ...names.filter((name) => name !== 'latest').map(path));
  t.same(await readdir(directory), []);
  t.same(await readdir(store.checkpointsDirectory('w')), [], 'and in the store');
  t.match(await failure('rmdir', path('one')), 'No such file');
}

t.test('in the mount of a store', { skip }, async (t) => {
  const cli = await withStore(t);
  const { ckptfs, store } = cli;
  t.match(await ckptfs(...endless, '--name', 'w', '--detach'), { status: 0 });
  const readOnly = join(await mountStore(t, cli), 'vms/w/checkpoints');
  const directory = join(await mountStore(t, cli, '-o', 'rw'), 'vms/w/checkpoints');
  t.match(await failure('mkdir', join(readOnly, 'one')), 'Read-only file system');
  await comeAndGo(t, cli, directory);

  await mkdir(join(directory, 'kept'));
  t.ok((await stat(join(readOnly, 'kept'))).isDirectory(), 'another mount sees it at once');
  t.match(await failure('rmdir', join(readOnly, 'kept')), 'Read-only file system');
  t.equal((await ckptfs('stop', 'w')).status, 0);
  t.match(await failure('mkdir', join(directory, 'late')), 'Host is down');
  await truncate(join(store.checkpointDirectory('w', 'kept'), 'manifest.json'), 100);
  await rmdir(join(directory, 'kept'));
  t.match(await ckptfs('show', 'w@kept'), { status: 10 }, 'nor a VM that runs, nor a whole one');
});

t.test('in the mount of the VM itself', { skip }, async (t) => {
  const cli = await withStore(t);
  const { store, ckptfs } = cli;
  const mount = join(store.root, '..', 'mnt');
  await mkdir(mount);
  t.teardown(async () => {
    while ((await mountOn(mount)) !== undefined) await unmountPath(mount, true);
  });
  t.match(await ckptfs(...endless, '--mount-options', 'rw'), { status: 2, stderr: /give --mount/ });
  const run = [...endless, '--name', 'w', '--detach', '--mount', mount];
  t.match(await ckptfs(...run, '--name', 'x', '--mount-options', 'rx'), {
    status: 2,
    stderr: /option rx/,
  });
  t.match(await ckptfs(...run, '--mount-options', 'rw'), { status: 0 });
  await until('the mount', async () => (await mountOn(mount)) !== undefined);
  await comeAndGo(t, cli, join(mount, 'vms/w/checkpoints'));
  t.equal((await ckptfs('stop', 'w')).status, 0);
});
