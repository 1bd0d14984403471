/**
 * Checkpoints from one store to another: to a directory, and over a connection whose far end is a process of its own.
 * What has arrived is the same checkpoint, a second one costs what is new, and what was cut short goes on.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import t, { type Test } from 'tap';
import {
  findCheckpoint,
  listCheckpoints,
  removeCheckpoint,
} from '../src/checkpoint/checkpoints.js';
import { Store } from '../src/checkpoint/store.js';
import { verifyCheckpoint } from '../src/checkpoint/verify.js';
import { backupVm } from '../src/transfer/backup.js';
import { DirectoryTarget } from '../src/transfer/directory_target.js';
import { openTarget } from '../src/transfer/open.js';
import { pack } from '../src/transfer/parcel.js';
import { bring } from '../src/transfer/recover.js';
import type { SshTarget } from '../src/transfer/ssh_target.js';
import { Vm } from '../src/vmm/vm.js';
import { main } from './support/cli.js';
import { withoutNetwork } from './support/far_shell.js';
import { temporaryStore, until, Watch } from './support/guests.js';
import { busyVm, contentsOf, goesOn, type Shipped } from './support/shipment.js';

t.setTimeout(600_000);

const mib = 2 ** 20;
const killRounds = Number(process.env.CKPTFS_TRANSFER_KILLS ?? 12);

/** A running VM, a place for another store, and a stand-in for ssh. */
async function setup(t: Test, shipped: Shipped = {}) {
  const { store, remove } = await temporaryStore();
  const vm = await busyVm(store, shipped);
  t.teardown(async () => {
    await vm.close();
    await remove();
  });
  await vm.serve();
  const beside = join(store.root, '..');
  const environment = await withoutNetwork(beside);
  const open = (path: string): Promise<DirectoryTarget | SshTarget> =>
    openTarget(path, {
      create: true,
      ssh: environment.CKPTFS_SSH,
      remoteProgram: environment.CKPTFS_REMOTE,
    });
  return { store, vm, beside, environment, open };
}

for (const kind of ['directory', 'connection'] as const) {
  t.test(`backup and recovery by a ${kind}`, async (t) => {
    const { store, vm, beside, open } = await setup(t, { stillMib: 40, diskMib: 12 });
    const path = join(beside, 'far');
    const dest = kind === 'directory' ? path : `ssh://far${path}`;
    const backup = async (name: string) => {
      await using target = await open(dest);
      return (await backupVm(store, vm.name, target, { request: { name } }))[0]!;
    };

    const first = await backup('one');
    t.match(first, { state: 'sent', vm: 'web', name: 'one', presentBytes: 0, pauseUs: Number });
    t.ok(first.sentBytes > 50 * mib, 'memory and disk were sent');
    await goesOn(vm);
    const second = await backup('two');
    t.ok(
      second.sentBytes <= 0.05 * first.sentBytes,
      `${second.sentBytes} of ${first.sentBytes} bytes for the second`,
    );
    await using target = await open(dest);
    const again = await backupVm(store, vm.name, target, { checkpoint: 'one' });
    t.match(again, [{ state: 'present', sentBytes: 0 }]);
    t.match(await target.list('web'), [{ name: 'one' }, { name: 'two' }]);
    t.same(await target.list('other'), []);

    const far = await Store.open(path);
    for (const name of ['one', 'two']) {
      const [here, there] = [
        store.checkpointDirectory('web', name),
        far.checkpointDirectory('web', name),
      ];
      t.same(await contentsOf(there), await contentsOf(here), `${name} is the same`);
      t.same(await verifyCheckpoint(there), [], `${name} is whole`);
    }
    t.notOk((await readdir(far.vmDirectory('web'))).includes('incoming'), 'nothing is left');
    const parent = join(far.checkpointDirectory('web', 'two'), 'disks/vda/00000000.raw');
    t.equal((await stat(parent)).nlink, 2, 'the parent is there once');

    // The first host is gone, with the disk that the VM was started on.
    await vm.close();
    await rm(join(beside, 'web-disk.img'));
    for (const name of ['one', 'two']) {
      const { store: local, remove } = await temporaryStore();
      t.teardown(remove);
      const entry = await bring(target, `web@${name}`, local);
      const recovered = await Vm.restore(local, entry, { lazy: true });
      const watch = new Watch(recovered);
      await recovered.start();
      await goesOn(recovered);
      await until('all memory', () => recovered.restoreProgress()?.done === true);
      await recovered.checkpoint({ name: 'here', wait: true });
      t.equal(watch.error, undefined);
      await recovered.close();
      t.equal((await listCheckpoints(local, 'web')).at(-1)?.name, 'here');
      t.same(await verifyCheckpoint(local.checkpointDirectory('web', 'here')), []);
    }
  });
}

t.test('what was cut short goes on where it stopped', async (t) => {
  const { store, vm, beside, open } = await setup(t, { stillMib: 48 });
  await vm.checkpoint({ name: 'one', wait: true });
  const parcel = await pack(store.checkpointDirectory('web', 'one'));
  const path = join(beside, 'far');
  for (const dest of [path, `ssh://far${join(beside, 'farther')}`]) {
    const cancel = new AbortController();
    await using first = await open(dest);
    await t.rejects(
      first.send(parcel, {
        signal: cancel.signal,
        onProgress: (done, total) => {
          if (done > total / 2) cancel.abort();
        },
      }),
      { code: 'CANCELLED' },
    );
    await first[Symbol.asyncDispose]();
    const far = await Store.open(dest.replace('ssh://far', ''));
    t.same(await listCheckpoints(far, 'web'), [], 'nothing is published');
    await using second = await open(dest);
    const sent = await second.send(parcel);
    t.ok(sent.presentBytes > 0.3 * sent.totalBytes, `${sent.presentBytes} bytes were there`);
    t.equal(sent.presentBytes + sent.sentBytes + sent.zeroBytes, sent.totalBytes);
    t.same(
      await contentsOf(far.checkpointDirectory('web', 'one')),
      await contentsOf(store.checkpointDirectory('web', 'one')),
    );
  }
});

t.test('a part that a power cut has spoilt is sent anew', async (t) => {
  const { store, vm, beside, open } = await setup(t);
  await vm.checkpoint({ name: 'one', wait: true });
  const parcel = await pack(store.checkpointDirectory('web', 'one'));
  const largest = [...parcel.files].sort((a, b) => b.file.bytes - a.file.bytes)[0]!;
  for (const [i, kind] of ['', 'ssh://far'].entries()) {
    const path = join(beside, `far${i}`);
    const far = await Store.open(path, { create: true });
    const incoming = far.incomingDirectory('web');
    await mkdir(incoming, { recursive: true });
    const part = join(incoming, `${largest.id}-${largest.file.bytes}.part`);
    await writeFile(part, Buffer.alloc(largest.file.bytes / 2, 0xa5));
    await using target = await open(`${kind}${path}`);
    await t.rejects(target.send(parcel), { code: 'DAMAGED', message: /again/ });
    t.same(await listCheckpoints(far, 'web'), []);
    await using again = await open(`${kind}${path}`);
    await again.send(parcel);
    t.same(await verifyCheckpoint(far.checkpointDirectory('web', 'one')), []);
  }
});

t.test('what is refused says why, and the next one may come', async (t) => {
  const { store, vm, beside, open } = await setup(t);
  for (const name of ['one', 'two']) await vm.checkpoint({ name, wait: true });
  const path = join(beside, 'far');
  await using target = await open(`ssh://far${path}`);
  await backupVm(store, 'web', target, { checkpoint: 'one' });
  // Another checkpoint of the same name: the VM was made anew, say.
  await removeCheckpoint(store, await findCheckpoint(store, 'web@one'));
  await vm.checkpoint({ name: 'one', wait: true });
  await t.rejects(backupVm(store, 'web', target, { checkpoint: 'one' }), {
    code: 'EXISTS',
    message: /far end.*web@one/,
  });
  t.match(await backupVm(store, 'web', target, { checkpoint: 'two' }), [{ state: 'sent' }]);
  await t.rejects(backupVm(store, 'none', target), { code: 'NOT_FOUND' });
  await using own = await DirectoryTarget.open(store.root);
  await t.rejects(own.refuseSame(store), { code: 'USAGE' });
  // The parent of its disk is not what it was any more.
  await using other = await open(join(beside, 'other'));
  const disk = join(beside, 'web-disk.img');
  const contents = await readFile(disk);
  await vm.close();
  await writeFile(disk, contents);
  await t.rejects(backupVm(store, 'web', other, { checkpoint: 'two' }), {
    code: 'DAMAGED',
    message: /web-disk\.img.*changed/,
  });
});

t.test('modes of backup', async (t) => {
  const { store, vm, beside, open } = await setup(t);
  const at = async (name: string) => open(join(beside, name));
  await using far = await at('far');
  const refused = { code: 'NOT_FOUND', message: /vda.*with-redo/ };
  await t.rejects(backupVm(store, 'web', far, { disks: 'redo-only' }), refused);
  await backupVm(store, 'web', far, { request: { suspend: true, name: 'suspended' } });
  t.equal(vm.status().state, 'running', 'it goes on when its checkpoint has been sent');
  t.match(await backupVm(store, 'web', far, { disks: 'redo-only' }), [{ state: 'sent' }]);
  t.match(
    await backupVm(store, 'web', far, { disks: 'then-commit', copy: true, request: { name: 'c' } }),
    [{ state: 'sent' }],
  );
  const [after] = await backupVm(store, 'web', far, { request: { name: 'after' } });
  t.ok((after?.sentBytes ?? 0) > 4 * mib, 'the disk has a parent of its own from then on');
  const first = { disks: 'commit-first', copy: true } as const;
  t.match(await backupVm(store, 'web', far, first), [{ state: 'sent' }]);
  for (const entry of await listCheckpoints(
    far instanceof DirectoryTarget ? far.store : store,
    'web',
  ))
    t.same(await verifyCheckpoint(entry.directory), [], entry.name);
  await vm.close();
  await using all = await at('all');
  const stopped = await backupVm(store, 'web', all);
  t.equal(stopped.length, (await listCheckpoints(store, 'web')).length, 'all that it has');
  await t.rejects(backupVm(store, 'web', all, first), { code: 'USAGE' });
});

/** Runs `ckptfs backup`; `kill` may end processes meanwhile. */
function startBackup(store: Store, dest: string, env: NodeJS.ProcessEnv): ChildProcess {
  return spawn(
    process.execPath,
    [main, 'backup', 'web', '--to', dest, '--checkpoint', 'one', '--store', store.root, '--json'],
    { stdio: ['ignore', 'pipe', 'pipe'], env },
  );
}

/** The process that receives for the store at `path`. */
async function receiverOf(path: string): Promise<number | undefined> {
  const pid = await readFile(join(path, 'vms/web/receive.lock'), 'utf8').catch(() => '');
  return pid === '' ? undefined : Number(pid);
}

t.test(`${killRounds} kills of the sender and of the receiver`, async (t) => {
  const { store, vm, beside, environment } = await setup(t, { stillMib: 96 });
  await vm.checkpoint({ name: 'one', wait: true });
  await vm.close();
  const path = join(beside, 'far');
  const expected = await contentsOf(store.checkpointDirectory('web', 'one'));
  let killed = 0;
  let resumed = 0;
  for (let round = 0; round < killRounds; round++) {
    const child = startBackup(store, `ssh://far${path}`, environment);
    const closed = once(child, 'close') as Promise<[number | null]>;
    // From the moment it receives on, somewhere within what a transfer takes.
    await Promise.race([
      until('a receiver', async () => (await receiverOf(path)) !== undefined),
      closed,
    ]);
    await sleep((round * 37) % 150);
    const victim = round % 2 === 0 ? child.pid : await receiverOf(path);
    if (child.exitCode === null && victim !== undefined) {
      try {
        process.kill(victim, 'SIGKILL');
        killed++;
      } catch {
        // It has ended by itself.
      }
    }
    await closed;
    const far = await Store.open(path);
    for (const entry of await listCheckpoints(far, 'web')) {
      t.same(await contentsOf(entry.directory), expected, `round ${round}: whole or not there`);
    }
    if ((await listCheckpoints(far, 'web')).length > 0) {
      await removeCheckpoint(far, await findCheckpoint(far, 'web@one'));
      continue;
    }
    await using target = await openTarget(path);
    const sent = await target.send(await pack(store.checkpointDirectory('web', 'one')));
    if (sent.presentBytes > 0) resumed++;
    t.same(await contentsOf(far.checkpointDirectory('web', 'one')), expected);
    await rm(far.vmDirectory('web'), { recursive: true });
  }
  t.ok(killed > killRounds / 2, `${killed} were killed`);
  t.ok(resumed > 0, `${resumed} were gone on with`);
});
