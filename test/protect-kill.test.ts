/**
 * The command: protection that is killed, on either side, goes on where it was, with no checkpoint lost or sent twice;
 * ended by a signal it ends well. And commits of what was sent, with a guest that writes to its disk.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import t from 'tap';
import { listCheckpoints } from '../src/checkpoint/checkpoints.js';
import { Store } from '../src/checkpoint/store.js';
import { verifyCheckpoint } from '../src/checkpoint/verify.js';
import { protect } from '../src/protect/protect.js';
import { protectionStatus } from '../src/vmm/protection.js';
import { main, withStore } from './support/cli.js';
import { withoutNetwork } from './support/far_shell.js';
import { temporaryStore, until } from './support/guests.js';
import { busyVm, contentsOf } from './support/shipment.js';
import { dd, withDisk } from './support/vm_disk.js';

t.setTimeout(600_000);

const killRounds = Number(process.env.CKPTFS_PROTECT_KILLS ?? 8);

type Told = Record<string, unknown> & { event?: string; type: string };

/** `ckptfs protect` and what it has told so far. */
function startProtect(store: Store, args: string[], env: NodeJS.ProcessEnv = process.env) {
  const child: ChildProcess = spawn(
    process.execPath,
    [main, 'protect', ...args, '--json', '--store', store.root],
    { stdio: ['ignore', 'pipe', 'pipe'], env: { ...env, DEBUG: undefined } },
  );
  const told: Told[] = [];
  createInterface({ input: child.stdout! }).on('line', (line) => {
    told.push(JSON.parse(line) as Told);
  });
  const closed = once(child, 'close') as Promise<[number | null, string | null]>;
  return { child, told, closed, of: (event: string) => told.filter((one) => one.event === event) };
}

async function receiverOf(path: string): Promise<number | undefined> {
  const pid = await readFile(join(path, 'vms/web/receive.lock'), 'utf8').catch(() => '');
  return pid === '' ? undefined : Number(pid);
}

t.test(`${killRounds} kills of the sender and of the receiver`, async (t) => {
  const { store, remove } = await temporaryStore();
  const vm = await busyVm(store, { stillMib: 24 });
  t.teardown(async () => {
    await vm.close();
    await remove();
  });
  await vm.serve();
  const beside = join(store.root, '..');
  const environment = await withoutNetwork(beside);
  const path = join(beside, 'far');
  const args = ['web', '--to', `ssh://far${path}`, '--every', '1s'];
  const shipped: unknown[] = [];
  let told = 0;
  let taken = 0;
  let missed = 0;
  for (let round = 0; round < killRounds; round++) {
    const running = startProtect(store, args, environment);
    await until('a transfer', () => running.of('sending').length > 0);
    await sleep((round * 137) % 500);
    if (round % 2 === 1) {
      // The far end: this one goes on by itself.
      const victim = await receiverOf(path);
      const before = running.of('shipped').length;
      try {
        if (victim !== undefined) process.kill(victim, 'SIGKILL');
      } catch {
        // It has ended by itself.
      }
      await until('the next', () => running.of('shipped').length > before);
    }
    running.child.kill('SIGKILL');
    await running.closed;
    shipped.push(...running.of('shipped').map(({ id }) => id));
    told += running.of('taken').length;
    const status = await protectionStatus(store, 'web');
    t.match(status, { active: false, endedAt: undefined }, 'it is seen to have broken off');
    t.ok(status!.taken >= taken && status!.missed >= missed, 'it counts on');
    ({ taken, missed } = status!);
  }

  const last = startProtect(store, [...args, '--every', '1h'], environment);
  const far = await Store.open(path);
  const namesIn = async (where: Store) =>
    (await listCheckpoints(where, 'web')).map(({ name }) => name).join();
  await until('it protects', async () => (await protectionStatus(store, 'web'))?.active === true);
  // pid (comm) state ...: the 19th field.
  const stat = await readFile(`/proc/${last.child.pid}/stat`, 'utf8');
  t.ok(Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[16]) >= 10, 'guests go first');
  await until('all of them', async () => (await namesIn(far)) === (await namesIn(store)));
  last.child.kill('SIGTERM');
  t.same(await last.closed, [0, null], 'a signal is its end');
  t.match(last.told.at(-1), { type: 'result', vm: 'web', active: false, endedAt: String });
  shipped.push(...last.of('shipped').map(({ id }) => id));
  t.equal(new Set(shipped).size, shipped.length, 'none was sent twice');

  const here = await listCheckpoints(store, 'web');
  t.ok(here.length >= killRounds / 2, `${here.length} checkpoints`);
  for (const { name, directory, manifest } of here) {
    const there = far.checkpointDirectory('web', name);
    t.same(await verifyCheckpoint(there), [], name);
    t.same(await contentsOf(there), await contentsOf(directory), `${name} is the same`);
    t.ok(manifest);
  }
  t.ok(here.length <= told + killRounds, 'of each kill at most one more than was told');
  const left = (await readdir(far.checkpointsDirectory('web'))).filter((name) =>
    name.startsWith('.'),
  );
  t.same(left, [], 'nothing is left of what was cut short');
});

t.test('the command tells what it does', async (t) => {
  const cli = await withStore(t);
  const { store, ckptfs } = cli;
  t.match(await ckptfs('protect', '--status'), { status: 0, stderr: /no VM/ });
  t.match(await ckptfs('protect', 'web'), { status: 2, stderr: /--to/ });
  t.match(await ckptfs('protect', 'web', '--to', '/x', '--every', '5'), { status: 2 });
  t.match(await ckptfs('protect', '--to', '/x'), { status: 2, stderr: /name at least one/ });
  t.match(await ckptfs('protect', 'web', '--to', '/x'), { status: 10, stderr: /web/ });

  const vm = await busyVm(store, { stillMib: 1 });
  t.teardown(() => vm.close());
  await vm.serve();
  t.match(await ckptfs('protect', '--status', 'web'), { status: 10, stderr: /never protected/ });
  const far = join(store.root, '..', 'far');
  const running = startProtect(store, ['web', '--to', far, '--keep', '2', '--every', '1s']);
  await until('three', () => running.of('shipped').length >= 3);
  t.match(await ckptfs('protect', 'web', '--to', far), { status: 11, stderr: /protected already/ });
  t.match(await ckptfs('protect', '--status'), { stdout: /web +active .*\bMISSED\b|web +active/s });
  t.match((await ckptfs('protect', '--status', '--json')).objects, [
    { type: 'result', vm: 'web', active: true, rpoMs: Number, worstRpoMs: Number, missed: Number },
  ]);
  t.match((await ckptfs('info', 'web')).stdout, /protection: +active, every 1 s to .*RPO/);
  running.child.kill('SIGINT');
  t.same(await running.closed, [0, null]);
  t.match((await ckptfs('protect', '--status')).stdout, /web +ended/);
  const kinds = new Set(running.told.map(({ event }) => event));
  for (const kind of ['taken', 'sending', 'shipped', 'removed']) t.ok(kinds.has(kind), kind);
});

t.test('a commit of what was sent changes no checkpoint', async (t) => {
  const cli = await withStore(t);
  const { store, ckptfs } = cli;
  const disk = await withDisk(t, cli);
  const shell = await disk.boot();
  await shell.run(dd(1, 0, 900));
  const end = new AbortController();
  t.teardown(() => end.abort());
  const expected = new Map<string, Record<string, string>>();
  const looking: Promise<void>[] = [];
  let [shipped, committed] = [0, 0];
  const far = join(store.root, '..', 'far');
  const done = protect(
    store,
    ['vm'],
    { to: far, everyMs: 1500, commitBytes: 0 },
    {
      signal: end.signal,
      onEvent: (event) => {
        t.not(event.event, 'failed', JSON.stringify(event));
        if (event.event === 'shipped') shipped++;
        if (event.event === 'committed') committed++;
        if (event.event !== 'taken') return;
        const { name } = event;
        const look = contentsOf(store.checkpointDirectory('vm', name));
        looking.push(look.then((contents) => void expected.set(name, contents)));
      },
    },
    { pollMs: 20 },
  );
  for (let seed = 2; committed < 4; seed++) await shell.run(dd(seed % 20, (seed * 37) % 900, 100));
  const before = shipped;
  await until('another one', () => shipped > before);
  end.abort();
  await done;
  await Promise.all(looking);
  t.ok(expected.size >= 4);
  t.ok((await disk.logs()).length <= 3, 'the logs do not pile up');
  // A commit that was cancelled just now may still be putting away what it made.
  await until('one parent of its own', async () => (await disk.own()).length === 1);
  const farStore = await Store.open(far);
  for (const [name, contents] of expected) {
    t.same(await contentsOf(store.checkpointDirectory('vm', name)), contents, `${name} here`);
  }
  const there = await listCheckpoints(farStore, 'vm');
  t.ok(there.length >= 4);
  for (const { name, directory } of there) {
    const contents = expected.get(name);
    if (contents) t.same(await contentsOf(directory), contents, `${name} there`);
    t.same(await verifyCheckpoint(directory), []);
  }
  t.match(await protectionStatus(store, 'vm'), { committed: Number, failures: {} });
  await shell.run('sync');
  const [now] = /[0-9a-f]{64}/.exec(await shell.run('sha256sum /dev/vda')) ?? [];
  t.match(await ckptfs('stop', 'vm'), { status: 0 });
  t.equal(await disk.sum('vm'), now, 'the guest has its disk');
});
