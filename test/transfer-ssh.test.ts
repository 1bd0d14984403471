/**
 * Two hosts (network namespaces with a link between them) and a real sshd: a Linux guest that checks itself is backed up
 * or protected while it runs, the link is cut amid a transfer and restored, the first host dies, and the guest goes on at the
 * second one from the newest and from the oldest checkpoint, and back at the first one over ssh, before its checkpoint has
 * come. It must end with the sum that it has when nothing interrupts it.
 */
import { type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { copyFile, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { findCheckpoint, listCheckpoints } from '../src/checkpoint/checkpoints.js';
import { Store } from '../src/checkpoint/store.js';
import { verifyCheckpoint } from '../src/checkpoint/verify.js';
import { namesIn, pathExists } from '../src/checkpoint/files.js';
import type { ArrivingStatus } from '../src/types.js';
import { main, start as startHere } from './support/cli.js';
import { linuxGuest, temporaryDirectory, temporaryStore, until } from './support/guests.js';
import { Hosts, noHosts } from './support/hosts.js';
import { runLinux } from './support/shell.js';

t.setTimeout(900_000);

const mode = 'writer ckptfs.rounds=200 ckptfs.mib=12';
const slowMbit = 40;

interface Ended {
  status: number | null;
  stderr: string;
  results: Record<string, unknown>[];
}

/** The commands of both hosts, each with a store of its own. */
async function setup(t: Test) {
  const hosts = await Hosts.make();
  t.teardown(() => hosts.remove());
  const { path, remove } = await temporaryDirectory();
  t.teardown(remove);
  const stores = { near: join(path, 'near'), far: join(path, 'far') };
  const vms: ['near' | 'far', string][] = [];
  const start = (host: 'near' | 'far', ...args: string[]): ChildProcess =>
    hosts.spawn(host, process.execPath, [main, ...args, '--json', '--store', stores[host]]);
  const ckptfs = async (host: 'near' | 'far', ...args: string[]): Promise<Ended> =>
    endOf(start(host, ...args));
  t.teardown(async () => {
    for (const [host, vm] of vms) await ckptfs(host, 'stop', vm);
  });
  const boot = async (vm: string): Promise<{ disk: string; pid: number }> => {
    const disk = join(path, `${vm}.img`);
    await copyFile(linuxGuest.disk, disk);
    const words = [...(await runLinux(mode)), '--name', vm, '--disk', disk, '--detach'];
    const { results } = await ckptfs('near', ...words);
    t.match(results, [{ vm, pid: Number, state: 'running' }]);
    vms.push(['near', vm]);
    return { disk, pid: Number(results[0]?.pid) };
  };
  const round = async (vm: string, number: number): Promise<void> => {
    const log = (await Store.open(stores.near)).consoleLog(vm);
    await until(`round ${number}`, async () =>
      (await readFile(log, 'latin1')).includes(`round ${number} `),
    );
  };
  /** Something of a checkpoint lies at the far host that is not there yet. */
  const coming = (far: Store, vm: string): Promise<void> =>
    until('something of it', async () => {
      const names = await namesIn(far.incomingDirectory(vm));
      return names.some((name) => name.endsWith('.part'));
    });
  return { hosts, path, stores, vms, start, ckptfs, boot, round, coming };
}

let undisturbed: Promise<string> | undefined;

/** What the guest prints at its end when nothing interrupts it; found out once. */
function undisturbedEnd(): Promise<string> {
  return (undisturbed ??= (async () => {
    const { store, remove } = await temporaryStore();
    try {
      const disk = join(store.root, '..', 'disk.img');
      await copyFile(linuxGuest.disk, disk);
      const { stdout } = await startHere(store, [...(await runLinux(mode)), '--disk', disk])
        .finished;
      return /ckptfs-guest: (PASS [^\r\n]+)\r?\n/.exec(stdout)?.[1] ?? stdout.slice(-400);
    } finally {
      await remove();
    }
  })());
}

async function endOf(child: ChildProcess): Promise<Ended> {
  let [stdout, stderr] = ['', ''];
  child.stdout?.setEncoding('utf8').on('data', (piece: string) => (stdout += piece));
  child.stderr?.setEncoding('utf8').on('data', (piece: string) => (stderr += piece));
  const [status] = (await once(child, 'close')) as [number | null];
  const lines = stdout.split('\n').filter((line) => line !== '');
  const objects = lines.map((line) => JSON.parse(line) as Record<string, unknown>);
  return { status, stderr, results: objects.filter(({ type }) => type !== 'status') };
}

/** What the guest prints at its end. */
async function passed(store: string, vm: string): Promise<string> {
  const log = (await Store.open(store)).consoleLog(vm);
  let sum: string | undefined;
  await until(`the end of ${vm}`, async () => {
    const text = await readFile(log, 'latin1').catch(() => '');
    const failure = /ckptfs-guest: FAIL[^\r\n]*/.exec(text);
    if (failure) throw new Error(failure[0]);
    sum = /ckptfs-guest: (PASS [^\r\n]+)\r?\n/.exec(text)?.[1];
    return sum !== undefined;
  });
  return sum ?? '';
}

t.test('backup, cut, recovery', { skip: noHosts() }, async (t) => {
  const { hosts, path, stores, vms, start, ckptfs, boot, round, coming } = await setup(t);
  const expected = await undisturbedEnd();
  t.match(expected, /^PASS rounds=200 journal=\d+ sum=[0-9a-f]{16}$/);

  const dest = hosts.url(join(stores.far));
  t.match(await ckptfs('near', 'doctor', dest, '-q'), { status: 0 });
  const { disk, pid } = await boot('web');
  await round('web', 2);
  const backup = (...more: string[]) => ['backup', 'web', '--to', dest, ...more];
  const whole = await ckptfs('near', ...backup('--name', 'one'));
  t.match(whole, { status: 0, results: [{ state: 'sent', vm: 'web', name: 'one' }] }, whole.stderr);

  // The link is cut amid the next one.
  await round('web', 4);
  await hosts.limit(slowMbit);
  const cut = start('near', ...backup('--name', 'two', '--full'));
  const cutEnd = endOf(cut);
  const far = await Store.open(stores.far);
  await coming(far, 'web');
  await hosts.link('down');
  // Or it might have come to its end before the next backup.
  t.match(await ckptfs('near', 'pause', 'web'), { status: 0 });
  t.match(await cutEnd, { status: 1, results: [{ type: 'error', code: 'IO', message: String }] });
  t.match(
    (await listCheckpoints(far, 'web')).map(({ name }) => name),
    ['one'],
    'not published',
  );
  await hosts.link('up');
  await hosts.unlimit();
  const rest = await ckptfs('near', ...backup('--checkpoint', 'two'));
  t.match(rest, { status: 0, results: [{ state: 'sent', name: 'two' }] }, rest.stderr);
  t.ok(
    Number(rest.results[0]?.presentBytes) > 0,
    `${Number(rest.results[0]?.presentBytes)} bytes were there`,
  );

  t.match(await ckptfs('near', 'resume', 'web'), { status: 0 });
  await round('web', 6);
  const third = await ckptfs('near', ...backup('--name', 'three'));
  t.match(third, { status: 0, results: [{ state: 'sent', name: 'three', pauseUs: Number }] });
  for (const entry of await listCheckpoints(far, 'web')) {
    t.same(await verifyCheckpoint(entry.directory), [], `${entry.name} is whole`);
  }

  // The first host dies with all that it has.
  process.kill(pid, 'SIGKILL');
  for (const gone of [disk, `${path}/near`]) await rm(gone, { recursive: true, force: true });

  const proof = await ckptfs('far', 'recover', stores.far, '--test', '--all', '--expect', 'round');
  t.match(proof, { status: 0, results: [{ ok: true }, { ok: true }, { ok: true }] }, proof.stderr);
  stores.far = join(path, 'far-local');
  for (const [name, vm] of [
    ['web@latest', 'newest'],
    ['web@one', 'oldest'],
  ] as const) {
    const words = ['recover', far.root, name, '--name', vm, '--detach'];
    const done = await ckptfs('far', ...words);
    t.match(done, { status: 0, results: [{ vm, state: 'running' }] }, done.stderr);
    vms.push(['far', vm]);
    t.equal(await passed(stores.far, vm), expected, `${name} ends as if nothing had happened`);
  }
  // Back at the first host, which has nothing left: the VM runs there before its checkpoint has come over a slow link,
  // which is cut amid that.
  await hosts.limit(slowMbit);
  const back = await ckptfs('near', 'recover', dest, 'web@two', '--detach', '--no-wait');
  t.match(back, { status: 0, results: [{ vm: 'web', state: 'running' }] }, back.stderr);
  vms.push(['near', 'web']);
  const info = async () => (await ckptfs('near', 'info', 'web')).results[0] ?? {};
  const arriving = async () => (await info()).arriving as ArrivingStatus | undefined;
  const early = await arriving();
  t.match(early, { doneBytes: Number, totalBytes: Number }, 'it runs before all has come');
  t.ok((early?.doneBytes ?? 0) < (early?.totalBytes ?? 0), JSON.stringify(early));
  const own = await Store.open(stores.near);
  t.same(await listCheckpoints(own, 'web'), [], 'nothing is published');
  await hosts.link('down');
  await until('the loss is told', async () => (await arriving())?.error !== undefined);
  t.match(await info(), { state: 'running' }, 'the guest waits');
  await hosts.link('up');
  await hosts.unlimit();
  t.equal(await passed(stores.near, 'web'), expected);
  await until('all of it', async () => (await listCheckpoints(own, 'web')).length === 1);
  const arrived = await findCheckpoint(own, 'web@two');
  t.same(await verifyCheckpoint(arrived.directory), []);
  await until('its configuration', () => pathExists(own.configFile('web')));
  t.match(await ckptfs('near', 'recover', dest, 'web@two', '--detach'), {
    status: 1,
    results: [{ code: 'EXISTS', message: /--replace/ }],
  });
});

t.test('protection, cut, recovery', { skip: noHosts() }, async (t) => {
  const { hosts, path, stores, vms, start, ckptfs, boot, round, coming } = await setup(t);
  const expected = await undisturbedEnd();
  const { disk, pid } = await boot('web');
  await round('web', 2);
  const dest = hosts.url(stores.far);
  const protecting = start('near', 'protect', 'web', '--every', '2s', '--to', dest);
  const ended = once(protecting, 'close');
  let told = '';
  protecting.stdout?.setEncoding('utf8').on('data', (piece: string) => (told += piece));
  const count = (event: string): number => told.split(`"event":"${event}"`).length - 1;
  const more = async (event: string, number = 1): Promise<void> => {
    const before = count(event);
    await until(`${number} more ${event}`, () => count(event) >= before + number);
  };
  await more('shipped');

  // The link is cut amid a transfer.
  await hosts.limit(4);
  const far = await Store.open(stores.far);
  await coming(far, 'web');
  await hosts.link('down');
  t.match(await ckptfs('near', 'pause', 'web'), { status: 0 });
  await more('failed');
  await hosts.link('up');
  await hosts.unlimit();
  await more('works');
  t.match(await ckptfs('near', 'resume', 'web'), { status: 0 });
  await more('taken');
  await more('shipped', 2);

  // The first host dies with all that it has.
  process.kill(pid, 'SIGKILL');
  protecting.kill('SIGKILL');
  await ended;
  for (const gone of [disk, stores.near]) await rm(gone, { recursive: true, force: true });

  const entries = await listCheckpoints(far, 'web');
  t.ok(entries.length >= 3, `${entries.length} checkpoints`);
  for (const { name, directory } of entries) {
    t.same(await verifyCheckpoint(directory), [], `${name} is whole`);
  }
  stores.far = join(path, 'far-local');
  for (const [name, vm] of [
    ['web@latest', 'newest'],
    [`web@${entries[0]?.name}`, 'oldest'],
  ] as const) {
    const done = await ckptfs('far', 'recover', far.root, name, '--name', vm, '--detach');
    t.match(done, { status: 0, results: [{ vm, state: 'running' }] }, done.stderr);
    vms.push(['far', vm]);
  }
  for (const vm of ['newest', 'oldest']) {
    t.equal(await passed(stores.far, vm), expected, `${vm} ends as if nothing had happened`);
  }
});
