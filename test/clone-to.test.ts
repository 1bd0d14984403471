/**
 * A VM that runs is copied to another store (requirement E), by the command and by the library: both go on as if nothing had
 * happened, each with disks of its own; a backup is made of the clone; and whatever goes wrong, nothing is left.
 */
import { createHash, randomBytes } from 'node:crypto';
import { copyFile, mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import {
  diskLayers,
  findCheckpoint,
  listCheckpointNames,
  listCheckpoints,
  openCheckpoint,
} from '../src/checkpoint/checkpoints.js';
import { flattenDisk } from '../src/checkpoint/disk_copy.js';
import { namesIn } from '../src/checkpoint/files.js';
import { Store } from '../src/checkpoint/store.js';
import { verifyCheckpoint } from '../src/checkpoint/verify.js';
import { CkptError } from '../src/errors.js';
import { backupVm } from '../src/transfer/backup.js';
import { cloneTo, type CloneToHooks, type CloneToOptions } from '../src/transfer/clone_to.js';
import { openTarget } from '../src/transfer/open.js';
import { pack } from '../src/transfer/parcel.js';
import type { Target } from '../src/transfer/target.js';
import { Vm } from '../src/vmm/vm.js';
import { run, start, withStore } from './support/cli.js';
import { withoutNetwork } from './support/far_shell.js';
import {
  boot,
  linuxGuest,
  sh,
  shellConfig,
  temporaryDirectory,
  temporaryStore,
  until,
  Watch,
} from './support/guests.js';
import { Hosts, noHosts } from './support/hosts.js';
import { runLinux } from './support/shell.js';
import { busyVm, goesOn } from './support/shipment.js';

t.setTimeout(900_000);

const mib = 2 ** 20;

/** What the self-checking guest says at its end. */
async function passed(store: Store, vm: string): Promise<string> {
  let sum: string | undefined;
  await until(
    `the end of ${vm}`,
    async () => {
      const text = await readFile(store.consoleLog(vm), 'latin1').catch(() => '');
      const failure = /ckptfs-guest: FAIL[^\r\n]*/.exec(text);
      if (failure) throw new Error(failure[0]);
      sum = /ckptfs-guest: (PASS [^\r\n]+)\r?\n/.exec(text)?.[1];
      return sum !== undefined;
    },
    300_000,
  );
  return sum ?? '';
}

t.test('a guest that checks itself is copied to a directory, and both go on', async (t) => {
  const { store, ckptfs } = await withStore(t);
  const to = join(store.root, '..', 'far');
  const disk = join(store.root, '..', 'disk.img');
  await copyFile(linuxGuest.disk, disk);
  const mode = 'writer ckptfs.rounds=120 ckptfs.mib=12';
  const words = [...(await runLinux(mode)), '--name', 'web', '--disk', disk, '--detach'];
  t.match(await ckptfs(...words), { status: 0 });
  await until('round 2', async () =>
    (await readFile(store.consoleLog('web'), 'latin1')).includes('round 2 '),
  );
  const done = await ckptfs('clone', 'web', '--to', to, '--threshold', '2M', '--start', '--json');
  t.equal(done.status, 0, done.stderr);
  const far = await Store.open(to);
  t.teardown(() => start(far, ['stop', 'web-clone']).finished);
  const result = done.objects.at(-1);
  t.match(result, {
    ...{ type: 'result', vm: 'web-clone', of: 'web', to, state: 'running', pid: Number },
    ...{ rounds: Number, pauseUs: Number, lostMs: Number, watchedMs: Number },
  });
  const rounds = done.objects.filter(({ event }) => event === 'round');
  t.equal(rounds.length, result?.rounds);
  t.match(rounds[0], { round: 1, isLast: false, writtenBytes: Number });
  t.match(rounds.at(-1), { isLast: true });
  const bytes = rounds.map(({ shippedBytes }) => Number(shippedBytes));
  t.equal(
    bytes.reduce((sum, one) => sum + one, 0),
    result?.shippedBytes,
  );
  // All memory and the parent of the disk are there by then.
  t.ok(Number(bytes.at(-1)) < Number(bytes[0]) / 4, `shipped in rounds: ${bytes.join(', ')}`);
  t.comment(`pause ${String(result?.pauseUs)} us, lost ${String(result?.lostMs)} ms`);

  const [here, there] = [
    await listCheckpoints(store, 'web'),
    await listCheckpoints(far, 'web-clone'),
  ];
  t.equal(here.length, 1, 'the rounds before are gone here');
  t.match(there, [{ name: result?.name, manifest: { id: here[0]?.manifest?.id } }], 'and there');
  t.match(there[0]?.manifest, {
    ...{ vm: 'web-clone', config: { name: 'web-clone' } },
    disks: [{ id: 'vda', parent: /^disks\/vda\// }],
  });
  t.same(await verifyCheckpoint(there[0]?.directory ?? ''), []);

  const [first, clone] = [await passed(store, 'web'), await passed(far, 'web-clone')];
  t.match(first, /^PASS rounds=120 journal=\d+ sum=[0-9a-f]{16}$/);
  t.equal(clone, first, 'both end as if nothing had happened');
});

t.test('over a far shell', async (t) => {
  const { store, ckptfs } = await withStore(t);
  const beside = (name: string): string => join(store.root, '..', name);
  const { CKPTFS_SSH: ssh = '', CKPTFS_REMOTE: remote = '' } = await withoutNetwork(beside(''));
  const shell = ['--ssh', ssh, '--remote-program', remote];
  const far = await Store.open(beside('far'), { create: true });
  const to = ['--to', `ssh://far${far.root}`, ...shell];
  await ckptfs(...run('random-writer', 'mib=4'), '--name', 'w', '--detach');

  const plain = await ckptfs('clone', 'w', ...to, '--name', 'copy', '--max-rounds', '1');
  t.match(plain, {
    status: 0,
    stdout: /^copy@clone-\S+: a clone of w is complete at ssh:.*2 rounds/,
  });
  t.match(plain.stderr, /round 1: .* written meanwhile\n.*round 2, the last: .*pause/s);
  t.match(plain.stderr, /ckptfs restore copy@clone-\S+ --store \S+ --detach/);
  const started = await ckptfs('clone', 'w', ...to, '--start', '--compress', 'none', '--json');
  t.match(started.objects.at(-1), { vm: 'w-clone', state: 'running', firstInstructionMs: Number });
  t.teardown(() => start(far, ['stop', 'w-clone']).finished);
  t.match((await start(far, ['info', 'w-clone', '--json']).finished).objects.at(-1), {
    state: 'running',
  });
  t.same(await far.listVms(), ['copy', 'w-clone']);

  const before = await listCheckpointNames(store, 'w');
  for (const [args, status, why] of [
    [['w', ...to, '--name', 'copy'], 1, /has a VM copy already; choose another --name/],
    [['w', ...to, '--name', '../x'], 2, /cannot name a VM/],
    [['w', '--to', store.root], 2, /is the store itself/],
    [['none', ...to], 10, /no VM named none/],
    [[`w@${before[0] ?? ''}`, ...to], 2, /only one that runs is copied so; send a checkpoint/],
    [['w', ...to, '--detach'], 2, /are for a clone here/],
    [['w', ...to, '--no-wait'], 2, /are for a clone here/],
    [['w', '--start'], 2, /give --to too/],
  ] as const) {
    t.match(await ckptfs('clone', ...args), { status, stderr: why });
  }
  t.same(await listCheckpointNames(store, 'w'), before, 'none is taken for nothing');

  // A guest that writes as fast as it is copied.
  const stop = ['--threshold', '64K', '--on-divergence', 'stop', '--name', 'never'];
  t.match(await ckptfs('clone', 'w', ...to, ...stop), {
    status: 11,
    stderr: /writes as fast as it can be copied/,
  });
  t.same(await far.listVms(), ['copy', 'w-clone'], 'nothing is left there');
  t.same(await listCheckpointNames(store, 'w'), before, 'nor here');
  const go = await ckptfs('clone', 'w', ...to, '--threshold', '64K', '--name', 'all-the-same');
  t.match(go, { status: 0, stderr: /do not converge: .* are left, and the next is the last/ });
  t.same(await verifyCheckpoint((await findCheckpoint(far, 'all-the-same@latest')).directory), []);

  // A key that is let in for nothing but receive.
  const only = `sh -c 'exec ${remote.replaceAll("'", '')} receive ${far.root}'`;
  const refused = await ckptfs(
    ...['clone', 'w', '--to', `ssh://far${far.root}`, '--ssh', ssh, '--remote-program', only],
    ...['--name', 'kept', '--start'],
  );
  t.match(refused, {
    status: 3,
    stdout: /^kept@/,
    stderr: /could not be started there .the far end only receives.; run .*restore kept@/,
  });
  t.match(await ckptfs('info', 'w', '--json'), { status: 0, stdout: /"state":"running"/ });
});

/** Two stores and a VM that writes, whose socket answers; what is in them of checkpoints and VMs. */
async function setup(t: Test, far: 'directory' | 'ssh') {
  const { store, remove } = await temporaryStore();
  t.teardown(remove);
  const beside = join(store.root, '..');
  const vm = await busyVm(store, { stillMib: 8, busyMib: 2, diskMib: 2 });
  t.teardown(() => vm.close());
  await vm.serve();
  const there = await Store.open(join(beside, 'far'), { create: true });
  const { CKPTFS_SSH: ssh, CKPTFS_REMOTE: remoteProgram } = await withoutNetwork(beside);
  const text = far === 'ssh' ? `ssh://far${there.root}` : there.root;
  const open = (signal?: AbortSignal) =>
    openTarget(text, { ssh, remoteProgram, ...(signal === undefined ? {} : { signal }) });
  const clone = (options: CloneToOptions = {}, hooks: CloneToHooks = {}) =>
    cloneTo(store, 'web', open, options, hooks);
  const left = async () => ({
    here: await namesIn(store.checkpointsDirectory('web')),
    there: await there.listVms(),
  });
  return { store, there, vm, open, clone, left };
}

const nothing = { here: [], there: [] };

for (const far of ['directory', 'ssh'] as const) {
  t.test(`cancelled at any time nothing is left, ${far}`, async (t) => {
    const { vm, clone, left } = await setup(t, far);
    const cancelled = async (what: string, hooks: (cancel: () => void) => CloneToHooks) => {
      const cancel = new AbortController();
      const all = { signal: cancel.signal, ...hooks(() => cancel.abort()) };
      await t.rejects(clone({ thresholdBytes: 1 }, all), { code: 'CANCELLED' }, what);
      t.same(await left(), nothing, what);
    };
    await cancelled('before the first round', (cancel) => ({ onName: cancel }));
    await cancelled('amid the first', (cancel) => ({
      onProgress: (done, total) => {
        if (done < total) cancel();
      },
    }));
    await cancelled('when one has arrived', (cancel) => ({ onRound: cancel }));
    await cancelled('amid the last', (cancel) => {
      let last = false;
      return { onDiverging: () => (last = true), onProgress: () => last && cancel() };
    });
    await goesOn(vm);
    const done = await clone({ name: 'web-clone' });
    t.same(await left(), { here: [done.name], there: ['web-clone'] }, 'the name is free');
  });
}

t.test('Ctrl-C during a save', async (t) => {
  const { store, ckptfs } = await withStore(t);
  const to = join(store.root, '..', 'far');
  // Nobody writes to it, so it is saved at the rate that is asked for.
  const still = join(store.root, '..', 'initrd');
  await writeFile(still, randomBytes(4 * mib));
  await ckptfs(...run('random-writer', 'mib=2'), '--initrd', still, '--name', 'w', '--detach');
  const { child, finished } = start(store, ['clone', 'w', '--to', to, '--limit', '10K/s']);
  await until('a save', async () => {
    const info = (await ckptfs('info', 'w', '--json')).objects.at(-1);
    return info?.save !== undefined;
  });
  child.kill('SIGINT');
  t.match(await finished, { status: 130 });
  t.same(await namesIn(store.checkpointsDirectory('w')), []);
  t.same(await (await Store.open(to)).listVms(), []);
  t.match((await ckptfs('info', 'w', '--json')).objects.at(-1), { state: 'running' });
});

t.test('failures and others', async (t) => {
  const { store, there, vm, open, clone, left } = await setup(t, 'directory');
  await t.test('a target that fails amid a round', async (t) => {
    let sends = 0;
    const failing = async (): Promise<Target> => {
      const target = await open();
      const send = target.send.bind(target);
      const once: Target['send'] = (...args) =>
        ++sends === 2 ? Promise.reject(new CkptError('NO_SPACE', 'full')) : send(...args);
      return Object.assign(target, { send: once });
    };
    await t.rejects(cloneTo(store, 'web', failing), { code: 'NO_SPACE' });
    t.same(await left(), nothing);
  });

  await t.test('a target that removes nothing', async (t) => {
    const kept: string[] = [];
    const remove = () => Promise.reject(new CkptError('UNSUPPORTED', 'it removes nothing'));
    const done = await cloneTo(
      store,
      'web',
      async () => Object.assign(await open(), { remove }),
      { name: 'kept', maxRounds: 1 },
      { onLeft: (what) => kept.push(what) },
    );
    const names = await listCheckpointNames(there, 'kept');
    t.same(kept.length, 1);
    t.equal(names.length, 2);
    t.ok(names.includes(done.name));
    t.same(await listCheckpointNames(store, 'web'), [done.name]);
  });

  await t.test('a checkpoint that another takes is waited for', async (t) => {
    await vm.checkpoint({ name: 'other', full: true, limitBytesPerSecond: 8 * mib, wait: false });
    t.equal(vm.status().save?.name, 'other');
    const done = await clone({ name: 'after' });
    t.ok((await listCheckpointNames(store, 'web')).includes('other'));
    t.same(await verifyCheckpoint(there.checkpointDirectory('after', done.name)), []);
  });

  await t.test('forgetting takes nothing that is published', async (t) => {
    await using target = await open();
    const parcel = await pack((await findCheckpoint(store, 'web@latest')).directory, 'half');
    const cancel = new AbortController();
    const amid = { signal: cancel.signal, onProgress: () => cancel.abort() };
    await t.rejects(target.send(parcel, amid), { code: 'CANCELLED' });
    t.ok((await namesIn(there.incomingDirectory('half'))).length > 0, 'something has come');
    const before = await there.listVms();
    for (const name of [...before, 'none']) await target.forget(name);
    t.same(
      await there.listVms(),
      before.filter((name) => name !== 'half'),
    );
    t.equal((await listCheckpointNames(there, 'kept')).length, 2);
  });
});

t.test('the link is cut', { skip: noHosts() }, async (t) => {
  const { store, there, vm } = await setup(t, 'directory');
  const hosts = await Hosts.make();
  t.teardown(() => hosts.remove());
  const { CKPTFS_REMOTE: remoteProgram } = hosts.environment;
  const ssh = `ip netns exec ${hosts.near} ${hosts.ssh}`;
  const open = (signal?: AbortSignal) =>
    openTarget(hosts.url(there.root), { ssh, remoteProgram, ...(signal && { signal }) });
  const left: string[] = [];
  let cut: Promise<void> | undefined;
  await t.rejects(
    cloneTo(
      store,
      'web',
      open,
      { thresholdBytes: 1 },
      {
        onRound: () => {
          cut ??= hosts.link('down');
        },
        onLeft: (what, { code }) => left.push(`${what}: ${code}`),
      },
    ),
    { code: 'IO' },
  );
  await cut;
  t.same(await namesIn(store.checkpointsDirectory('web')), [], 'nothing is left here');
  t.same(left, ['what has come of web-clone there: IO'], 'it tells what is left there');
  await goesOn(vm);
  await hosts.link('up');
  await t.rejects(cloneTo(store, 'web', open, { name: 'web-clone' }), { code: 'EXISTS' });
  const done = await cloneTo(store, 'web', open);
  t.equal(done.vm, 'web-clone2', 'another name is chosen');
  t.same(await verifyCheckpoint(there.checkpointDirectory('web-clone2', done.name)), []);
});

t.test('the backup of a clone is its disk at its snapshot', async (t) => {
  const { store, remove } = await temporaryStore();
  t.teardown(remove);
  const scratch = await temporaryDirectory();
  t.teardown(scratch.remove);
  const beside = (name: string): string => join(scratch.path, name);
  await copyFile(linuxGuest.disk, beside('disk.img'));
  const { vm, watch } = await boot(
    store,
    await shellConfig({
      name: 'first',
      cpus: 1,
      disks: [{ path: beside('disk.img'), mode: 'persistent' }],
    }),
  );
  t.teardown(() => vm.close());
  await vm.serve();
  await watch.printed(/disk mounted[^]*# /);
  await sh(vm, watch, 'busybox --install -s /bin; echo first > /disk/first; sync');
  await mkdir(beside('far'));
  const open = () => openTarget(beside('far'), { create: true });
  const done = await cloneTo(store, 'first', open);
  const { lostMs, watchedMs } = done.lostWork;
  t.ok(lostMs >= 0 && lostMs <= watchedMs);
  t.comment(`the first VM lost ${lostMs} of ${watchedMs} ms`);

  const far = await Store.open(beside('far'));
  const entry = await findCheckpoint(far, `${done.vm}@${done.name}`);
  const clone = await Vm.restore(far, entry, { lazy: true });
  t.teardown(() => clone.close());
  await clone.serve();
  const cloneWatch = new Watch(clone);
  await clone.start();
  t.equal(clone.name, 'first-clone');
  t.equal(await sh(clone, cloneWatch, 'cat /disk/first'), 'first');
  await sh(clone, cloneWatch, 'echo clone > /disk/clone; umount /disk');
  await sh(vm, watch, 'echo own > /disk/own; sync');
  const expected = await sh(clone, cloneWatch, 'sha256sum < /dev/vda');

  // The snapshot of the clone's disk, sent elsewhere while the clone goes on writing.
  await using target = await openTarget(beside('backup'), { create: true });
  const writing = backupVm(far, 'first-clone', target, { request: { name: 'snapshot' } });
  let sentAlready = false;
  void writing.then(() => (sentAlready = true));
  await until('the snapshot', () => sentAlready || clone.saving() !== undefined);
  await sh(clone, cloneWatch, 'dd if=/dev/zero of=/dev/vda bs=64k count=64 2>&1; sync');
  const [sent] = await writing;
  t.match(sent, { state: 'sent', vm: 'first-clone', name: 'snapshot' });
  const backup = await Store.open(beside('backup'));
  const { directory } = await findCheckpoint(backup, 'first-clone@snapshot');
  const image = beside('image');
  await flattenDisk(diskLayers(await openCheckpoint(directory), 'vda'), image);
  const sum = createHash('sha256')
    .update(await readFile(image))
    .digest('hex');
  t.equal(`${sum}  -`, expected, 'what the clone read of its disk then');
  t.equal(await sh(vm, watch, 'echo $(cat /disk/first /disk/own)'), 'first own');

  // What a guest writes past its memory counts too: else the last round would have to send it.
  await sh(clone, cloneWatch, 'dd if=/dev/urandom of=/tmp/random bs=1M count=8 2>&1');
  clone.consoleInput(
    Buffer.from(
      'while :; do dd if=/tmp/random of=/dev/vda bs=256k oflag=direct; done 2>/dev/null &\n',
    ),
  );
  const onDisk: number[] = [];
  await cloneTo(
    far,
    'first-clone',
    () => openTarget(beside('third'), { create: true }),
    { thresholdBytes: 4 * mib, maxRounds: 2 },
    { onRound: ({ writtenBytes }) => onDisk.push(writtenBytes - clone.status().dirtyBytes) },
  );
  t.equal(onDisk.length, 3, 'memory alone would have been less than the threshold');
  t.ok((onDisk[0] ?? 0) > mib, `${onDisk.join(', ')} bytes on the disk`);
  t.equal(vm.status().state, 'running');
});
