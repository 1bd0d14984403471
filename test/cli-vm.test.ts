/** The commands on a real guest: from run to rm, in the foreground and in the background. */
import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import t from 'tap';
import { listCheckpointNames } from '../src/checkpoint/checkpoints.js';
import { VmClient } from '../src/vmm/client.js';
import { endless, main, run, start, withStore } from './support/cli.js';
import { until } from './support/guests.js';
import { GuestShell } from './support/shell.js';

t.setTimeout(300_000);

t.test('--exit-code tells how the guest ended, the console is on stdout', async (t) => {
  const { ckptfs } = await withStore(t);
  const hello = await ckptfs(...run('hello', ''), '--exit-code');
  t.match(hello, { status: 0, stderr: '' });
  t.match(hello.stdout, /^ckptfs-bare: hello\r?\n$/);
  const failing = await ckptfs(...run('exit', 'reason=1'), '--exit-code', '--json');
  t.equal(failing.status, 1);
  t.match(failing.objects.at(-1), { type: 'result', exit: { kind: 'shutdown', reason: 1 } });
  t.equal((await ckptfs(...run('exit', 'reason=1'))).status, 0, 'only when asked for');
  t.match((await ckptfs('run', '--name', 'vm1')).stdout, /hello/, 'a stopped VM runs again');
});

t.test('a VM in the background, from start to removal', async (t) => {
  const { store, ckptfs } = await withStore(t);
  const json = async (...args: string[]) => (await ckptfs(...args, '--json')).objects.at(-1);
  t.match(await json(...endless, '--name', 'w', '--detach'), { vm: 'w', state: 'running' });
  t.match(await json('list'), { vm: 'w', state: 'running', memoryBytes: 2 ** 24 });
  t.match(await json('pause', 'w'), { state: 'paused' });
  t.match(await json('info', 'w'), { vm: 'w', state: 'paused', pid: Number, config: { cpus: 1 } });
  t.equal((await ckptfs('pause', 'w')).status, 11, 'paused already');
  t.match(await json('resume', 'w'), { state: 'running' });

  const summary = await json('checkpoint', 'w', '--name', 'one');
  t.match(summary, {
    type: 'result',
    name: 'one',
    id: /^[0-9a-f]{32}$/,
    state: 'published',
    pauseUs: Number,
    totalMs: Number,
    memoryBytes: 2 ** 24,
    storedBytes: Number,
    blocks: { vcpu: Number, background: Number, zero: Number, parent: 0 },
    faults: Number,
  });
  t.match(await ckptfs('checkpoint', 'w', '--name', 'one'), {
    status: 1,
    stderr: /exists already/,
  });
  t.match(await ckptfs('verify', 'w@one'), { status: 0, stdout: 'w@one: whole\n' });
  t.match(await json('show', 'w@latest'), { id: summary?.id });
  t.equal((await ckptfs('restore', 'w@one')).status, 11, 'in place only when it is stopped');
  t.equal((await ckptfs('rm', 'w')).status, 11);

  t.match(await json('restore', 'w@one', '--detach', '--name', 'w2'), {
    vm: 'w2',
    firstInstructionMs: Number,
    completeMs: Number,
    blocks: { demand: Number, prefetched: Number },
    faults: Number,
  });
  t.match(await json('list'), { vm: 'w2', state: 'running' });
  for (const vm of ['w', 'w2']) t.match(await json('stop', vm), { vm, state: 'stopped' });
  t.equal(await readFile(store.processLog('w'), 'utf8'), '', 'a stop is no failure');
  t.equal((await ckptfs('rm', 'w')).status, 11, 'it has a checkpoint');
  t.equal((await ckptfs('rm', 'w@one')).status, 0);
  t.equal((await ckptfs('rm', 'w')).status, 0);
  t.equal((await ckptfs('rm', 'w2')).status, 0);
  t.same(await readdir(store.vmsDirectory()), []);
});

t.test('suspend and resume, a schedule, and a signal that declares a checkpoint', async (t) => {
  const { store, ckptfs } = await withStore(t);
  const json = async (...args: string[]) => (await ckptfs(...args, '--json')).objects.at(-1);
  const schedule = ['--checkpoint-every', '1d', '--checkpoint-keep', '3'];
  const { pid } = (await json(...endless, '--name', 'w', '--detach', ...schedule)) as {
    pid: number;
  };
  t.match(await json('info', 'w'), { schedule: { everySeconds: 86_400, keep: 3, taken: 0 } });
  t.match((await ckptfs('info', 'w')).stdout, /schedule: +every 86400 s, 3 kept, 0 taken/);
  process.kill(pid, 'SIGUSR1');
  let names: string[] = [];
  await until('a checkpoint', async () => {
    names = await listCheckpointNames(store, 'w');
    return names.length > 0;
  });
  t.match(names, [/^auto-20/]);
  t.match(await json('checkpoint', 'w', '--name', 'one', '--full', '--suspend'), {
    state: 'published',
    parentId: null,
  });
  t.match(await json('info', 'w'), { state: 'paused', suspended: { name: 'one' } });
  process.kill(pid, 'SIGUSR1');
  await until('a line', async () =>
    (await readFile(store.processLog('w'), 'utf8')).includes('missed'),
  );
  t.match(await json('resume', 'w'), { state: 'running' });
  t.match(await json('checkpoint', 'w', '--name', 'two', '--compress', 'none', '--in-flight'), {
    parentId: /^[0-9a-f]{32}$/,
  });
  t.equal((await ckptfs('retry', 'w')).status, 2, 'it has not failed');
  t.match(await json('stop', 'w'), { state: 'stopped' });

  const file = join(store.root, '..', 'ram');
  t.match(await json('export', 'w@one', '-o', file), { path: file, bytes: 2 ** 24 });
  const refused = { status: 1, stderr: /exists already/ };
  t.match(await ckptfs('export', 'w@one', '-o', file), refused);
  t.equal((await ckptfs('export', 'w@two', '-o', file, '--force')).status, 0);
  const shell = `"$0" "$1" export w@two -o - --store "$2" | cmp - "$3"`;
  const compare = [shell, process.execPath, main, store.root, file];
  t.equal(spawnSync('/bin/sh', ['-c', ...compare], { encoding: 'utf8' }).stderr, '');

  const diff = await json('diff', 'w@one', 'w@two');
  const memory = { blocks: 512, changedBlocks: Number, changedBytes: Number, truncated: false };
  t.match(diff, { before: 'w@one', after: 'w@two', memory, disks: [] });
  const [before, after] = [file, `${file}-one`];
  await ckptfs('export', 'w@one', '-o', after);
  const [two, one] = [await readFile(before), await readFile(after)];
  const changed = Array.from({ length: 512 }, (_, i) => i << 15).filter(
    (at) => !one.subarray(at, at + 32_768).equals(two.subarray(at, at + 32_768)),
  );
  t.equal((diff?.memory as { changedBlocks: number }).changedBlocks, changed.length);
  t.match(await ckptfs('diff', 'w@one', 'w@one'), { status: 0, stdout: /0 of 512 blocks differ/ });
  t.match(await ckptfs('diff', 'w@one', 'w@two', '-v'), { stdout: /ranges:\n {2}0x/ });
  const verified = await ckptfs('verify', '--all');
  t.match(verified, { status: 0, stdout: /auto-.*: whole\nw@one: whole\nw@two: whole\n/ });
});

t.test('what a detached start cannot do is told as if it were in the foreground', async (t) => {
  const { store, ckptfs } = await withStore(t);
  const missing = await ckptfs('run', '--kernel', '/nonexistent', '--detach');
  t.match(missing, { status: 10, stdout: '', stderr: /^ckptfs: kernel \/nonexistent.*; .*\n$/ });
  const busy = await ckptfs('restore', 'x@y', '--detach', '--json');
  t.match(busy, { status: 10, objects: [{ type: 'error', code: 'NOT_FOUND' }] });
  t.same(await store.listVms(), [], 'nothing half-made is left');
});

t.test('signals end a VM cleanly and cancel a checkpoint', async (t) => {
  const { store, ckptfs } = await withStore(t);
  for (const [signal, status] of [
    ['SIGINT', 130],
    ['SIGTERM', 143],
  ] as const) {
    const { child, finished } = start(store, [...endless, '--name', signal]);
    await once(child.stdout as NodeJS.ReadableStream, 'data');
    child.kill(signal);
    t.equal((await finished).status, status);
    t.match(await ckptfs('list', '--json'), { stdout: /"state":"stopped"/ });
    await ckptfs('rm', signal);
  }
  // Wherever in its course the checkpoint is: it is published or cancelled, and nothing else is left.
  await ckptfs(...run('random-writer', 'mib=100'), '--memory', '128M', '--name', 'w', '--detach');
  const { child, finished } = start(store, ['checkpoint', 'w', '--name', 'one', '--json']);
  await once(child.stdout as NodeJS.ReadableStream, 'data');
  child.kill('SIGINT');
  const { status, stdout } = await finished;
  t.ok(status === 130 || status === 0, `${status}: ${stdout}`);
  await ckptfs('stop', 'w');
  const left = await readdir(store.checkpointsDirectory('w')).catch(() => []);
  const published = JSON.stringify(left) === '["one"]';
  t.ok(published || (left.length === 0 && status === 130), left.join());
});

t.test('the console passes input and output, and leaves the guest running', async (t) => {
  const { store, ckptfs } = await withStore(t);
  await ckptfs(...endless, '--name', 'w', '--detach');
  const { child, finished } = start(store, ['console', 'w', '--json']);
  await once(child.stdout as NodeJS.ReadableStream, 'data');
  child.stdin?.end('\n');
  child.kill('SIGINT');
  t.equal((await finished).status, 130);
  t.match((await ckptfs('list', '--json')).objects, [{ vm: 'w', state: 'running' }]);
  const again = start(store, ['console', 'w', '--json']);
  await once(again.child.stdout as NodeJS.ReadableStream, 'data');
  await ckptfs('stop', 'w');
  t.equal((await again.finished).status, 0, 'the end of the VM ends the console');
  t.match(await readFile(store.consoleLog('w'), 'utf8'), /random-writer/);
});

t.test('a guest that ends leaves the checkpoint that was taken of it before', async (t) => {
  const { store, ckptfs } = await withStore(t);
  const shell = await GuestShell.boot(store, '--name', 'w');
  const ended = once(shell.child, 'close');
  const client = await VmClient.connect('w', store.controlSocket('w'));
  // Slow enough for the guest to end meanwhile.
  const saved = client.checkpoint({ name: 'last', wait: true, limitBytesPerSecond: 2 ** 21 });
  saved.catch(() => undefined); // met below
  await until('the pause', async () => Boolean((await client.status()).save?.id));
  shell.child.stdin?.write('poweroff -f\n');
  await until('the end of the guest', async () => (await client.status()).exit !== undefined);
  t.same(await listCheckpointNames(store, 'w'), [], 'it is still being saved');
  t.match(await saved, { name: 'last', state: 'published' });
  await ended;
  t.match(await ckptfs('verify', 'w@last'), { status: 0, stdout: 'w@last: whole\n' });
});
