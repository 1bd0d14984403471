/**
 * A VM is copied to another store while it runs (requirement E), in rounds: these end when little is left, or by the
 * policy; the clone goes on there with disks of its own, of which a backup is made; the first VM goes on.
 */
import { createHash } from 'node:crypto';
import { copyFile, link, mkdir, readFile, rename } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import t, { type Test } from 'tap';
import {
  diskLayers,
  findCheckpoint,
  listCheckpointNames,
  listCheckpoints,
  openCheckpoint,
  removeCheckpoint,
} from '../src/checkpoint/checkpoints.js';
import { flattenDisk } from '../src/checkpoint/disk_copy.js';
import { pathExists } from '../src/checkpoint/files.js';
import type { Store } from '../src/checkpoint/store.js';
import { verifyCheckpoint } from '../src/checkpoint/verify.js';
import { precopy, type PrecopySource, type PrecopyTarget } from '../src/vmm/precopy.js';
import { Vm } from '../src/vmm/vm.js';
import {
  bareConfig,
  boot,
  linuxGuest,
  sh,
  shellConfig,
  temporaryStore,
  until,
  Watch,
} from './support/guests.js';

t.setTimeout(600_000);

const mib = 2 ** 20;

async function twoStores(t: Test): Promise<[here: Store, there: Store]> {
  const [here, there] = [await temporaryStore(), await temporaryStore()];
  t.teardown(here.remove);
  t.teardown(there.remove);
  return [here.store, there.store];
}

const sourceOf = (vm: Vm): PrecopySource => ({
  vm: vm.name,
  status: () => Promise.resolve(vm.status()),
  checkpoint: (request, _onProgress, signal) =>
    vm.checkpoint(request, signal === undefined ? {} : { signal }),
});

/** The other store as a target: it gets the files that it lacks, and links those it has. */
class StoreTarget implements PrecopyTarget {
  constructor(
    private readonly here: Store,
    private readonly there: Store,
    private readonly vm: string,
  ) {}

  async ship({ name }: { name: string }): Promise<number> {
    const from = this.here.checkpointDirectory(this.vm, name);
    const into = this.there.checkpointDirectory(this.vm, name);
    const { manifest } = await openCheckpoint(from);
    const known = (await listCheckpoints(this.there, this.vm).catch(() => [])).map(
      ({ directory }) => directory,
    );
    let bytes = 0;
    const paths = ['manifest.json', ...manifest.files.map(({ path }) => path)];
    for (const path of paths) {
      const target = join(`${into}.new`, path);
      await mkdir(dirname(target), { recursive: true });
      const shared = /\.(hot|cold|redo)$/.test(path)
        ? known.map((directory) => join(directory, path))
        : [];
      const there = (await Promise.all(shared.map(pathExists))).indexOf(true);
      if (there >= 0) {
        await link(shared[there] ?? '', target);
      } else {
        await copyFile(join(from, path), target);
        bytes += manifest.files.find((file) => file.path === path)?.bytes ?? 0;
      }
    }
    await rename(`${into}.new`, into);
    return bytes;
  }

  async drop({ name }: { name: string }): Promise<void> {
    for (const store of [this.here, this.there]) {
      const entry = await findCheckpoint(store, `${this.vm}@${name}`).catch(() => undefined);
      if (entry !== undefined) await removeCheckpoint(store, entry);
    }
  }
}

async function goesOn(t: Test, vm: Vm): Promise<void> {
  const { instructions } = vm.status();
  await until('the guest goes on', () => vm.status().instructions > instructions);
  t.equal(vm.status().state, 'running');
}

t.test('rounds end when little is left', async (t) => {
  const [here, there] = await twoStores(t);
  // It sends its messages and writes next to nothing.
  const config = bareConfig('messenger', 'writes=0', { name: 'vm' });
  const { vm, watch } = await boot(here, config);
  t.teardown(() => vm.close());
  await watch.printed(/m100 100\r?\n/);
  const target = new StoreTarget(here, there, 'vm');
  const seen: number[] = [];
  const done = await precopy(
    sourceOf(vm),
    target,
    { thresholdBytes: mib, codec: 'none' },
    { onRound: ({ shippedBytes }) => seen.push(shippedBytes) },
  );
  t.equal(done.converged, true);
  t.equal(done.rounds.length, 1);
  t.same(
    seen,
    [...done.rounds, done.last].map(({ shippedBytes }) => shippedBytes),
  );
  const [first] = done.rounds;
  t.ok((first?.writtenBytes ?? mib) < mib, 'little was left');
  t.ok(done.last.checkpoint.pauseUs > 0);
  t.ok(done.lostWork.watchedMs > 0);
  t.ok(done.lostWork.lostMs >= 0 && done.lostWork.lostMs <= done.lostWork.watchedMs);
  t.comment(`${JSON.stringify(done.lostWork)}, pause ${done.last.checkpoint.pauseUs} us`);
  for (const store of [here, there]) {
    t.same(await listCheckpointNames(store, 'vm'), [done.last.checkpoint.name], 'the last is left');
  }
  const entry = await findCheckpoint(there, 'vm@latest');
  t.same(await verifyCheckpoint(entry.directory), []);
  await vm.close();
  const sentBefore = Number([...watch.text.matchAll(/m(\d+) \1\r?\n/g)].at(-1)?.[1]);
  const clone = await Vm.restore(there, entry, { name: 'clone', lazy: true });
  t.teardown(() => clone.close());
  const cloneWatch = new Watch(clone);
  await clone.start();
  const [, next] = await cloneWatch.printed(/m(\d+) \1\r?\n/);
  t.ok(Number(next) > 100 && Number(next) <= sentBefore, 'it goes on from the last round');
  await goesOn(t, clone);
});

t.test('rounds that do not converge', async (t) => {
  const [here, there] = await twoStores(t);
  const config = bareConfig('random-writer', 'mib=8', { name: 'vm', memoryBytes: 32 * mib });
  const { vm, watch } = await boot(here, config);
  t.teardown(() => vm.close());
  await watch.printed(/random-writer/);
  const target = new StoreTarget(here, there, 'vm');
  const policy = { thresholdBytes: mib, codec: 'lz4' } as const;
  await t.rejects(precopy(sourceOf(vm), target, { ...policy, onDivergence: 'stop' }), {
    code: 'BUSY',
    message: /writes as fast as it can be copied/,
  });
  for (const store of [here, there]) t.same(await listCheckpointNames(store, 'vm'), []);
  await goesOn(t, vm);
  const done = await precopy(sourceOf(vm), target, policy);
  t.equal(done.converged, false);
  t.ok(done.rounds.length >= 2, 'a second round shows it');
  t.ok(
    done.rounds.every(({ writtenBytes }) => writtenBytes > mib),
    'each left more than the threshold',
  );
  const once = await precopy(sourceOf(vm), target, { ...policy, maxRounds: 1 });
  t.equal(once.rounds.length, 1);
  t.same(await verifyCheckpoint((await findCheckpoint(there, 'vm@latest')).directory), []);

  const failing: PrecopyTarget = {
    ship: () => Promise.reject(new Error('no way there')),
    drop: (checkpoint) => target.drop(checkpoint),
  };
  const names = await listCheckpointNames(here, 'vm');
  await t.rejects(precopy(sourceOf(vm), failing), { message: 'no way there' });
  const gone = new AbortController();
  await t.rejects(
    precopy(sourceOf(vm), target, policy, { signal: gone.signal, onRound: () => gone.abort() }),
    { code: 'CANCELLED' },
  );
  t.same(await listCheckpointNames(here, 'vm'), names, 'a failure leaves nothing');
  await goesOn(t, vm);
});

t.test('the backup of a clone is its disk at its snapshot', async (t) => {
  const [here, there] = await twoStores(t);
  const disk = join(here.root, '..', 'disk.img');
  await copyFile(linuxGuest.disk, disk);
  const config = await shellConfig({
    name: 'first',
    cpus: 1,
    disks: [{ path: disk, mode: 'nonpersistent' }],
  });
  const { vm, watch } = await boot(here, config);
  t.teardown(() => vm.close());
  await watch.printed(/disk mounted[^]*# /);
  await sh(vm, watch, 'busybox --install -s /bin; echo first > /disk/first; sync');
  const { last, lostWork } = await precopy(sourceOf(vm), new StoreTarget(here, there, 'first'), {
    copyDisks: true,
  });
  t.comment(`lost ${lostWork.lostMs} of ${lostWork.watchedMs} ms`);

  const entry = await findCheckpoint(there, `first@${last.checkpoint.name}`);
  t.match(entry.manifest?.disks, [{ parent: /^disks/ }], 'the disk is there as a whole');
  const clone = await Vm.restore(there, entry, { name: 'clone', lazy: true });
  t.teardown(() => clone.close());
  const cloneWatch = new Watch(clone);
  await clone.start();
  t.equal(await sh(clone, cloneWatch, 'cat /disk/first'), 'first');
  await sh(clone, cloneWatch, 'echo clone > /disk/clone; umount /disk');
  const expected = await sh(clone, cloneWatch, 'sha256sum < /dev/vda');
  await clone.checkpoint({ name: 'snapshot' });
  await sh(clone, cloneWatch, 'dd if=/dev/zero of=/dev/vda bs=64k count=64 2>&1; sync');

  const snapshot = await findCheckpoint(there, 'clone@snapshot');
  const backup = join(there.root, '..', 'backup.img');
  await flattenDisk(diskLayers(await openCheckpoint(snapshot.directory), 'vda'), backup);
  const sum = createHash('sha256')
    .update(await readFile(backup))
    .digest('hex');
  t.equal(`${sum}  -`, expected, 'what the clone read of its disk then');
  await goesOn(t, vm);
});
