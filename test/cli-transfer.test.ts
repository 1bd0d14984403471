/** The commands of backup and recovery, on a real guest: what they print, and what they end with. */
import { mkdir, open, readdir, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import t from 'tap';
import { Store } from '../src/checkpoint/store.js';
import { endless, start, withStore } from './support/cli.js';
import { withoutNetwork } from './support/far_shell.js';
import { until } from './support/guests.js';

t.setTimeout(300_000);

t.test('backup, doctor and recover', async (t) => {
  const { store, ckptfs } = await withStore(t);
  const beside = (name: string): string => join(store.root, '..', name);
  const { CKPTFS_SSH: ssh = '', CKPTFS_REMOTE: remote = '' } = await withoutNetwork(beside(''));
  const far = ['--ssh', ssh, '--remote-program', remote];
  const disk = beside('disk.img');
  await writeFile(disk, Buffer.alloc(2 ** 20, 7));
  await ckptfs(...endless, '--name', 'a', '--disk', disk, '--detach');
  await ckptfs(...endless, '--name', 'b', '--detach');

  const url = `ssh://far${beside('far')}`;
  t.match(await ckptfs('doctor', url, ...far), { status: 0, stdout: /no store yet/ });
  const whole = await ckptfs('backup', '--all', '--to', url, ...far);
  t.match(whole, { status: 0, stdout: /^a@\S+: .* sent to ssh:.*pause [\s\S]*^b@/m }, whole.stderr);
  t.match(await ckptfs('doctor', url, ...far), { status: 0, stdout: /2 checkpoints/ });
  const json = await ckptfs('backup', 'a', '--to', beside('dir'), '--name', 'x', '--json');
  t.match(json, { status: 0 });
  t.match(json.objects.at(-1), {
    type: 'result',
    vm: 'a',
    name: 'x',
    state: 'sent',
    to: beside('dir'),
  });
  t.match(await ckptfs('backup', 'a', '--to', beside('dir'), '--checkpoint', 'x'), {
    status: 0,
    stdout: /has it already/,
  });
  const both = await ckptfs('backup', 'none', 'a', '--to', beside('dir'));
  t.match(both, { status: 10, stderr: /no VM named none/ });

  // A VM goes on in a store of its own, from a directory and over ssh.
  const local = await Store.open(beside('local'), { create: true });
  const here = (...args: string[]) => start(local, args).finished;
  t.teardown(async () => {
    for (const vm of await local.listVms()) await here('stop', vm);
  });
  const recovered = await here('recover', beside('dir'), 'a@x', '--detach');
  t.match(recovered, { status: 0, stdout: /a is running .* memory complete/ }, recovered.stderr);
  t.match(await here('recover', url, 'b@latest', '--detach', ...far, '--json'), { status: 0 });
  t.match(await here('list', '-q'), { stdout: 'a\nb\n' });
  t.match(await here('recover', beside('dir'), 'a@x', '--detach'), {
    status: 1,
    stderr: /--replace/,
  });
  await here('stop', 'a');
  t.match(await here('recover', beside('dir'), 'a@x', '--detach', '--replace'), { status: 0 });
  t.match(await here('checkpoint', 'a', '--name', 'y'), { status: 0 }, 'it can be checkpointed');
  t.match(await here('recover', beside('dir'), 'a@none', '--detach'), { status: 10 });

  // Proofs: of what is there, of what is not shown, and of what is damaged.
  const proofs = await here('recover', beside('dir'), '--test', '--all', '--json');
  t.match(proofs.objects, [{ ok: true, vm: 'a', name: 'x', completeMs: Number }]);
  const never = ['--test', '--expect', 'never shown', '--timeout', '1s'];
  t.match(await here('recover', beside('dir'), 'a@x', ...never), {
    status: 1,
    stdout: /NOT RECOVERABLE.*never shown/,
  });
  await ckptfs('backup', 'a', '--to', beside('dir'), '--name', 'z', '--full');
  const dir = (await Store.open(beside('dir'))).checkpointDirectory('a', 'z');
  // Whichever has the most of it: a guest that waits leaves nothing for the hot segment.
  const segments = (await readdir(dir)).filter((name) => /\.(hot|cold)$/.test(name));
  const sizes = await Promise.all(segments.map(async (name) => (await stat(join(dir, name))).size));
  const segment = segments[sizes.indexOf(Math.max(...sizes))] ?? '';
  const file = await open(join(dir, segment), 'r+');
  await file.write(Buffer.alloc(65536, 0xa5), 0, 65536, 8192);
  await file.close();
  const some = await here('recover', beside('dir'), '--test', '--all');
  t.match(some, { status: 3, stdout: /a@x: recoverable[\s\S]*a@z: NOT RECOVERABLE/ });
  t.same((await readdir(beside('local'))).sort(), ['ckptfs.json', 'vms'], 'nothing is kept');
});

t.test('VMs together, live and suspended', async (t) => {
  const { store, ckptfs } = await withStore(t);
  for (const vm of ['a', 'b']) await ckptfs(...endless, '--name', vm, '--detach');
  const to = join(store.root, '..', 'dir');
  for (const [i, more] of [[], ['--suspend']].entries()) {
    const done = await ckptfs('backup', 'a', 'b', '--to', to, '--together', '--json', ...more);
    t.equal(done.status, 0, done.stderr);
    const sent = done.objects.filter(({ type }) => type === 'result');
    t.match(sent, [
      { vm: 'a', state: 'sent' },
      { vm: 'b', state: 'sent' },
    ]);
    for (const vm of ['a', 'b']) {
      const info = (await ckptfs('info', vm, '--json')).objects.at(-1);
      t.match(info, { state: 'running' }, `${vm} runs again`);
    }
    const proven = await ckptfs('recover', to, '--test', '--all', '--json');
    t.equal(proven.objects.filter(({ ok }) => ok).length, 2 * (i + 1));
  }
  t.match(await ckptfs('stop', 'b'), { status: 0 });
  t.match(await ckptfs('backup', 'a', 'b', '--to', to, '--together'), { status: 10 });
  const info = (await ckptfs('info', 'a', '--json')).objects.at(-1);
  t.match(info, { state: 'running', checkpoints: 2 }, 'nothing was taken');
});

t.test('Ctrl-C cancels a backup, and the VM goes on', async (t) => {
  const { store, ckptfs } = await withStore(t);
  await ckptfs(...endless, '--name', 'a', '--detach');
  const to = join(store.root, '..', 'dir');
  await mkdir(to);
  const { child, finished } = start(store, [
    ...['backup', 'a', '--to', to, '--suspend', '--limit', '10K/s', '--json'],
  ]);
  await until('a save', async () => {
    const info = (await ckptfs('info', 'a', '--json')).objects.at(-1);
    return (info as { save?: object } | undefined)?.save !== undefined;
  });
  child.kill('SIGINT');
  t.match(await finished, { status: 130 });
  await until('a VM that runs', async () => {
    const info = (await ckptfs('info', 'a', '--json')).objects.at(-1);
    return info?.state === 'running';
  });
  t.match(await ckptfs('backup', 'a', '--to', to), { status: 0, stdout: /sent/ });
});
