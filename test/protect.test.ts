/**
 * Protection of running VMs: their checkpoints reach a second store and are kept there, by a directory and over a
 * connection, whatever goes away meanwhile: the destination, the VM, the process that protects.
 */
import { mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import t, { type Test } from 'tap';
import { listCheckpoints } from '../src/checkpoint/checkpoints.js';
import { pathExists } from '../src/checkpoint/files.js';
import { Store } from '../src/checkpoint/store.js';
import { verifyCheckpoint } from '../src/checkpoint/verify.js';
import type { ProtectEvent } from '../src/protect/events.js';
import { protect, type ProtectOptions } from '../src/protect/protect.js';
import { bring } from '../src/transfer/recover.js';
import { openTarget } from '../src/transfer/open.js';
import { VmClient } from '../src/vmm/client.js';
import { protectionStatus } from '../src/vmm/protection.js';
import { Vm } from '../src/vmm/vm.js';
import { withoutNetwork } from './support/far_shell.js';
import { temporaryStore, until } from './support/guests.js';
import { samplesOf } from './support/exposition.js';
import { busyVm, contentsOf, goesOn } from './support/shipment.js';

t.setTimeout(600_000);

const everyMs = 300;
const times = { pollMs: 10, retryMs: [20, 100] } as const;

type EventOf<Kind> = Extract<ProtectEvent, { event: Kind }>;

/** Protection under way, and all that it has told. */
class Running {
  readonly events: ProtectEvent[] = [];
  readonly #end = new AbortController();
  readonly #done: Promise<void>;

  readonly to: string;

  constructor(store: Store, vms: string[], options: ProtectOptions) {
    this.to = options.to;
    const hooks = {
      onEvent: (event: ProtectEvent) => void this.events.push(event),
      signal: this.#end.signal,
    };
    this.#done = protect(store, vms, { everyMs, ...options }, hooks, times);
    this.#done.catch(() => undefined); // met by end()
  }

  of<Kind extends ProtectEvent['event']>(kind: Kind, vm = 'web'): EventOf<Kind>[] {
    return this.events.filter(
      (event): event is EventOf<Kind> => event.event === kind && event.vm === vm,
    );
  }

  /** Resolves when so many more of a kind have been told. */
  async more(kind: ProtectEvent['event'], count: number, vm = 'web'): Promise<void> {
    const before = this.of(kind, vm).length;
    await until(`${count} ${kind}`, () => this.of(kind, vm).length >= before + count);
  }

  /** Resolves when an interval has been missed for that reason. */
  async missed(reason: string): Promise<void> {
    await until(reason, () => this.of('missed').some(({ why }) => why === reason));
  }

  async end(): Promise<void> {
    this.#end.abort();
    await this.#done;
  }
}

async function setup(t: Test, names = ['web']) {
  const { store, remove } = await temporaryStore();
  const vms: Vm[] = [];
  for (const name of names) vms.push(await busyVm(store, { name, stillMib: 2 }));
  const running: Running[] = [];
  t.teardown(async () => {
    for (const one of running) await one.end().catch(() => undefined);
    for (const vm of vms) await vm.close();
    await remove();
  });
  for (const vm of vms) await vm.serve();
  const beside = join(store.root, '..');
  const { CKPTFS_SSH: ssh, CKPTFS_REMOTE: remoteProgram } = await withoutNetwork(beside);
  const start = (to: string, options: Partial<ProtectOptions> = {}): Running => {
    const one = new Running(store, names, { to, ssh, remoteProgram, ...options });
    running.push(one);
    return one;
  };
  return { store, vms, vm: vms[0]!, beside, start, ssh, remoteProgram };
}

const namesOf = async (store: Store, vm = 'web'): Promise<string[]> =>
  (await listCheckpoints(store, vm)).map(({ name }) => name);

for (const kind of ['directory', 'connection'] as const) {
  t.test(`checkpoints arrive and are kept, by a ${kind}`, async (t) => {
    const { store, vm, beside, start } = await setup(t);
    const path = join(beside, 'far');
    await vm.checkpoint({ name: 'manual', wait: true });
    const running = start(kind === 'directory' ? path : `ssh://far${path}`, { keep: 3 });
    await running.more('shipped', 6);
    const client = await VmClient.connect('web', store.controlSocket('web'));
    const samples = samplesOf(await client.metrics());
    // Without a checkpoint under way, so that what it has told is all.
    await vm.pause();
    await running.missed('the VM is paused');
    await running.end();
    t.same(running.of('failed'), []);
    const ended = await protectionStatus(store, 'web');

    const far = await Store.open(path);
    t.ok((await namesOf(far)).length <= 4, 'what has just come may be one too many');
    // Whatever was under way at the end is gone on with, though nothing is due.
    const rest = start(running.to, { keep: 3, everyMs: 3_600_000 });
    await until('the same three', async () => {
      const there = await namesOf(far);
      return there.length === 3 && there.join() === (await namesOf(store)).slice(1).join();
    });
    await rest.end();
    t.same(rest.of('taken'), []);
    const [here, there] = [await namesOf(store), await namesOf(far)];
    t.match(here, ['manual', /^protect-/, /^protect-/, /^protect-/], 'others stay');
    t.equal(here.length, 4);
    t.equal(there.length, 3, 'so many are kept there');
    const taken = running.of('taken').map(({ name }) => name);
    t.ok(here.includes(taken.at(-1)!), 'the newest are kept');
    const shipped = [...running.of('shipped'), ...rest.of('shipped')].map(({ id }) => id);
    t.equal(new Set(shipped).size, shipped.length, 'each is sent once');
    for (const name of there) {
      const directory = far.checkpointDirectory('web', name);
      t.same(await verifyCheckpoint(directory), []);
      if (!here.includes(name)) continue;
      t.same(
        await contentsOf(directory),
        await contentsOf(store.checkpointDirectory('web', name)),
        name,
      );
    }
    const sent = running.of('shipped').map(({ sentBytes }) => sentBytes);
    t.ok(sent.at(-1)! < 0.5 * sent[0]!, `${sent.at(-1)} bytes after ${sent[0]} the first time`);

    const counted = { taken: taken.length, shipped: running.of('shipped').length };
    t.match(ended, { active: false, endedAt: String, failures: {}, keep: 3, ...counted });
    const status = await protectionStatus(store, 'web');
    t.match(status, { taken: 0, newest: { name: there.at(-1) } }, 'begun anew');
    const newest = (await listCheckpoints(far, 'web')).at(-1)!;
    t.equal(status?.newest?.createdAt, newest.createdAt.toISOString());
    const mostMs = Math.max(...running.of('shipped').map(({ rpoMs }) => rpoMs));
    t.ok(ended!.worstRpoMs >= mostMs, 'the worst is none better than those told');
    t.ok(samples.get('ckptfs_protect_shipped_total{vm="web"}')! >= 5);
    t.equal(samples.get('ckptfs_protect_active{vm="web"}'), 1);
    t.ok(samples.get('ckptfs_protect_rpo_seconds{vm="web"}')! > 0);

    // What it is for: the VM goes on elsewhere.
    await vm.close();
    await using target = await openTarget(path);
    const { store: second, remove } = await temporaryStore();
    t.teardown(remove);
    const entry = await bring(target, 'web@latest', second);
    const recovered = await Vm.restore(second, entry, { lazy: true });
    await recovered.start();
    await goesOn(recovered);
    await recovered.close();
  });
}

t.test('the destination goes away and comes back', async (t) => {
  const { store, beside, start } = await setup(t);
  const path = join(beside, 'far');
  const away = join(beside, 'away');
  // Longer than a save takes on a machine that is busy.
  const longMs = 1000;
  const running = start(path, { keep: 4, everyMs: longMs });
  await running.more('shipped', 2);
  // At a time when nothing is being written there.
  await until('a rest', () => running.events.at(-1)?.event !== 'sending');
  await rename(path, away);
  await running.more('failed', 1);
  await running.more('taken', 3);
  await running.more('missed', 2);
  t.match(running.of('failed').at(-1), { step: 'transfer', code: 'NOT_FOUND', message: /far/ });
  await until('the reason', () =>
    running.of('missed').some(({ why }) => /no store at .*far/.test(why)),
  );
  t.match((await protectionStatus(store, 'web'))?.failures, { transfer: { message: /far/ } });
  t.notOk(await pathExists(path), 'no store is made in its place');
  // Its mount point alone is no store either.
  await mkdir(path);
  await running.more('taken', 1);
  t.match((await protectionStatus(store, 'web'))?.failures, { transfer: {} });
  t.notOk(await pathExists(join(path, 'ckptfs.json')));
  await rm(path, { recursive: true });

  const newest = (await namesOf(store)).at(-1)!;
  const before = running.of('shipped').length;
  await Promise.all([running.more('works', 1), running.more('shipped', 4), rename(away, path)]);
  await running.end();
  t.ok(running.of('shipped')[before]!.name >= newest, 'the newest is sent first');
  t.same((await protectionStatus(store, 'web'))?.failures, {});
  t.ok(
    (await protectionStatus(store, 'web'))!.worstRpoMs > 2 * longMs,
    'the time without it is in the RPO',
  );
});

t.test('the VM stops, starts, and is paused', async (t) => {
  const { store, vm, beside, start } = await setup(t);
  const running = start(join(beside, 'far'));
  await running.more('shipped', 1);
  await vm.pause();
  await running.more('missed', 2);
  await running.missed('the VM is paused');
  vm.resume();
  await running.more('shipped', 2);
  // Not amid a checkpoint: what becomes of that is not looked at here.
  await vm.pause();
  await running.more('missed', 2);
  await vm.close();
  await running.missed('the VM does not run');
  const again = await Vm.restart(store, 'web');
  t.teardown(() => again.close());
  await again.serve();
  await again.start();
  await running.more('shipped', 2);
  await again.pause();
  const far = await Store.open(join(beside, 'far'));
  await until('the same', async () => {
    return (await namesOf(far)).join() === (await namesOf(store)).join();
  });
  await running.end();
  const { missed } = running.of('missed').at(-1)!;
  t.equal(
    missed,
    running.of('missed').reduce((sum, { intervals }) => sum + intervals, 0),
  );
  t.equal((await protectionStatus(store, 'web'))?.missed, missed);
});

t.test('several VMs, each at its own pace', async (t) => {
  const { store, vms, beside, start } = await setup(t, ['web', 'db']);
  const far = join(beside, 'far');
  const running = start(far, { everyMs: 3_600_000, afterWrittenBytes: 256 << 10 });
  await Promise.all([running.more('shipped', 2, 'web'), running.more('shipped', 2, 'db')]);
  await vms[0]!.pause();
  await running.more('shipped', 2, 'db');
  await t.rejects(protect(store, ['db'], { to: far }), { code: 'BUSY', message: /protected/ });
  await running.end();
  for (const vm of ['web', 'db']) {
    t.match(await protectionStatus(store, vm), { missed: 0, taken: Number, failures: {} }, vm);
    t.same(running.of('failed', vm), []);
  }
});

t.test('what cannot be protected', async (t) => {
  const { store, beside } = await setup(t);
  const rejects = (vms: string[], options: ProtectOptions, code: string) =>
    t.rejects(protect(store, vms, options), { code });
  await rejects([], { to: beside }, 'USAGE');
  await rejects(['none'], { to: beside }, 'NOT_FOUND');
  await rejects(['web'], { to: store.root }, 'USAGE');
  await rejects(['web'], { to: 'ftp://x/y' }, 'USAGE');
  await rejects(['web'], { to: beside, everyMs: 0 }, 'USAGE');
  await rejects(['web'], { to: beside, keep: 0 }, 'USAGE');
  await rejects(['web', 'none'], { to: beside }, 'NOT_FOUND');
  t.equal(
    (await protectionStatus(store, 'web'))?.endedAt,
    undefined,
    'what did not begin was not ended',
  );
});

t.test('removal at the far end', async (t) => {
  const { vm, store, beside, start, ssh, remoteProgram } = await setup(t);
  const path = join(beside, 'far');
  const running = start(path, { keep: 2 });
  await running.more('shipped', 3);
  await running.end();
  const far = await Store.open(path);
  const [entry] = await listCheckpoints(far, 'web');
  const { name } = entry!;
  const { id } = entry!.manifest!;
  for (const dest of [path, `ssh://far${path}`]) {
    await using target = await openTarget(dest, { ssh, remoteProgram });
    const refused = { code: 'NOT_FOUND', message: /no checkpoint/ };
    await t.rejects(target.remove('web', name, '0'.repeat(32)), refused, 'another one');
    await t.rejects(target.remove('web', 'other', id), refused);
    await t.rejects(target.remove('other', name, id), refused);
    t.equal((await target.list('web')).length, 2, 'nothing has gone');
  }
  await using target = await openTarget(`ssh://far${path}`, { ssh, remoteProgram });
  await target.remove('web', name, id);
  t.notOk((await target.list('web')).some((one) => one.name === name));

  // A receiver that removes nothing: all else goes on.
  const keeper = join(beside, 'keeper');
  await writeFile(
    keeper,
    (await readFile(ssh!, 'utf8')).replace('exec sh', 'last="$last --no-remove"\nexec sh'),
    { mode: 0o755 },
  );
  t.match(await readFile(keeper, 'utf8'), /--no-remove/);
  const keeping = start(`ssh://far${join(beside, 'kept')}`, { keep: 1, ssh: keeper });
  await keeping.more('shipped', 3);
  await sleep(everyMs);
  await keeping.end();
  t.match(keeping.of('failed'), [{ step: 'far-retention', code: 'UNSUPPORTED' }], 'told once');
  t.ok((await namesOf(await Store.open(join(beside, 'kept')))).length >= 3);
  t.equal(vm.status().state, 'running');
  t.ok((await namesOf(store)).length <= 3, 'one, one that was being sent, one just taken');
});
