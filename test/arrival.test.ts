/**
 * A VM that runs before its checkpoint has come from the far end: what it waits for comes first, all of it is published
 * in the end, and a connection that is cut, a process that is killed and data that is wrong do it no harm.
 */
import { randomBytes } from 'node:crypto';
import { copyFile, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { findCheckpoint, listCheckpoints } from '../src/checkpoint/checkpoints.js';
import { namesIn, pathExists } from '../src/checkpoint/files.js';
import { Store } from '../src/checkpoint/store.js';
import { verifyCheckpoint } from '../src/checkpoint/verify.js';
import { CkptError, toCkptError } from '../src/errors.js';
import { Arrival } from '../src/transfer/arrival.js';
import { layersOf } from '../src/vmm/disk_base.js';
import { Vm } from '../src/vmm/vm.js';
import { FarEnd } from './support/far_end.js';
import { bareConfig, boot, linuxGuest, temporaryStore, until, Watch } from './support/guests.js';
import { busyVm, contentsOf, goesOn, pictureOf, type Shipped } from './support/shipment.js';
import { failOneSync } from './support/sync_failure.js';

t.setTimeout(600_000);

const mib = 2 ** 20;
const codeOf = (error: unknown): string => toCkptError(error).code;

/** A far store with the checkpoint web@one, whole by itself, and a near one beside it. */
async function setup(t: Test, shipped: Shipped = {}) {
  const { store: far, remove } = await temporaryStore();
  t.teardown(remove);
  const vm = await busyVm(far, shipped);
  await vm.checkpoint({ name: 'one', copyDisks: true });
  await vm.close();
  const source = await findCheckpoint(far, 'web@one');
  const near = await Store.open(join(far.root, '..', 'near'), { create: true });
  const end = new FarEnd(far, 'web', 'one');
  return { far, near, end, source };
}

/** Recovers the VM from the far end; it runs when this resolves. */
async function recover(t: Test, near: Store, end: FarEnd, name?: string) {
  const news: string[] = [];
  const arriving = await Arrival.begin(
    await end.dial(new AbortController().signal),
    end.dial,
    near,
    { vm: 'web', name: 'one' },
    { onNews: (text) => news.push(text) },
  );
  if (!arriving) throw new Error('it is there already');
  t.teardown(() => arriving.end());
  const entry = { vm: 'web', name: 'one', directory: arriving.directory };
  const vm = await Vm.restore(near, entry, { lazy: true, arriving, ...(name ? { name } : {}) });
  t.teardown(() => vm.close());
  const watch = new Watch(vm);
  return { vm, arriving, watch, news };
}

/** Requests for bytes, as file@offset+bytes. */
const reads = (end: FarEnd) => end.requests.filter((request) => request.type === 'read');

const totalOf = (manifest: { files: { bytes: number }[] } | undefined): number =>
  (manifest?.files ?? []).reduce((sum, { bytes }) => sum + bytes, 0);

t.test('it runs before all has come, and ends as the checkpoint that it is', async (t) => {
  const { near, end, source } = await setup(t, { stillMib: 40, diskMib: 24 });
  end.limit(4 * mib);
  const { vm, arriving } = await recover(t, near, end);
  await vm.start();
  const trickle = setInterval(() => end.allow(256 << 10), 20);
  await goesOn(vm).finally(() => clearInterval(trickle));
  end.allow(0);
  const total = totalOf(source.manifest);
  t.ok(end.bytes < total / 2 && total > 60 * mib, `${end.bytes} of ${total} bytes had come`);
  t.match(vm.status(), { state: 'running', arriving: { totalBytes: total, error: undefined } });
  t.ok((vm.status().arriving?.doneBytes ?? 0) < total / 2);
  t.same(await listCheckpoints(near, 'web'), [], 'nothing is published');
  await t.rejects(vm.checkpoint({ name: 'two' }), { code: 'BUSY' });
  await t.rejects(vm.commitDisk('vda'), { code: 'BUSY' });
  await t.rejects(Vm.restart(near, 'web'), { code: 'NOT_FOUND' }, 'it has no configuration yet');
  t.equal(await layersOf(near.diskDirectory('web', 'vda'), '/').catch(codeOf), 'BUSY');

  end.limit(Infinity);
  await arriving.whole;
  await vm.saved();
  t.equal(vm.status().arriving, undefined);
  const entry = await findCheckpoint(near, 'web@one');
  t.same(await verifyCheckpoint(entry.directory), []);
  t.same(await contentsOf(entry.directory), await contentsOf(source.directory));
  t.same(await namesIn(near.incomingDirectory('web')), []);
  t.equal((await layersOf(near.diskDirectory('web', 'vda'), '/')).redo.length, 2);
  await goesOn(vm);
  const { name } = await vm.checkpoint({ name: 'two' });
  await vm.close();
  const again = await Vm.restore(near, await findCheckpoint(near, `web@${name}`), { lazy: false });
  t.teardown(() => again.close());
  await again.start();
  await goesOn(again);
});

t.test('what is waited for comes before what nobody waits for', async (t) => {
  const { near, end, source } = await setup(t, { stillMib: 24, diskMib: 24 });
  // Soon nothing comes: what is under way then is all that can be before a wish.
  end.limit(2 * mib);
  const { vm, arriving } = await recover(t, near, end);
  await vm.start();
  await until('nothing comes', () => end.bytes >= 2 * mib);
  const files = source.manifest?.files ?? [];
  const parent = files.findIndex(({ path }) => path.endsWith('.raw'));
  const disk = vm.disk('vda');
  t.teardown(() => disk.close());
  const before = reads(end).length;
  const at = 20 * mib;
  const sector = Buffer.alloc(512);
  const read = disk.read(sector, at);
  await until('the wish', () => reads(end).length > before);
  t.match(
    reads(end)[before],
    { index: parent, offset: at, bytes: 128 << 10 },
    'the next to be asked for',
  );
  const asked = reads(end).reduce((sum, { bytes }) => sum + bytes, 0);
  t.ok(asked < 6 * mib, `${asked} bytes were asked for`);
  end.limit(Infinity);
  await read;
  const original = await readFile(join(source.directory, files[parent]?.path ?? ''));
  t.same(sector, original.subarray(at, at + 512));
  await goesOn(vm);
  await arriving.whole;
  const twice = new Map<string, number>();
  for (const { index, offset } of reads(end)) {
    twice.set(`${index}@${offset}`, (twice.get(`${index}@${offset}`) ?? 0) + 1);
  }
  t.same(
    [...twice].filter(([, times]) => times > 1),
    [],
    'nothing is asked for twice',
  );
});

t.test('a connection that is cut: the guest waits, goes on, and ends right', async (t) => {
  const { store: far, remove } = await temporaryStore();
  t.teardown(remove);
  const near = await Store.open(join(far.root, '..', 'near'), { create: true });
  const disk = join(far.root, '..', 'disk.img');
  await copyFile(linuxGuest.disk, disk);
  const cmdline = (await readFile(linuxGuest.cmdline, 'utf8')).trim();
  const { vm: first, watch } = await boot(far, {
    name: 'web',
    ...{ kernel: linuxGuest.kernel, initrd: linuxGuest.initrd, memoryBytes: 128 * mib, cpus: 2 },
    append: `${cmdline} ckptfs.mode=writer ckptfs.rounds=8 ckptfs.mib=8`,
    disks: [{ id: 'vda', path: disk }],
  });
  t.teardown(() => first.close());
  await watch.printed(/round 3 /);
  await first.checkpoint({ name: 'one', copyDisks: true });
  const [, expected] = await watch.printed(/ckptfs-guest: (PASS [^\r\n]+)\r?\n/);
  await first.close();

  const end = new FarEnd(far, 'web', 'one');
  end.limit(mib);
  const { vm, arriving, watch: recovered, news } = await recover(t, near, end);
  // Its devices wait too, for the rings of their queues.
  const started = vm.start();
  for (let cut = 1; cut <= 5; cut++) {
    end.refusal = new CkptError('IO', 'there is no way');
    end.cut();
    await until('it is told', () => vm.status().arriving?.error !== undefined);
    t.match(vm.status(), { state: 'running', arriving: { error: /does not come: / } });
    end.refusal = undefined;
    const { dials } = end;
    await vm.retryRestore(); // and not when its time has come
    await until('another connection', () => end.dials > dials);
    await until('it is told', () => vm.status().arriving?.error === undefined);
    const { bytes } = end;
    end.allow(cut * mib);
    await until(
      'more has come',
      () => end.bytes > bytes + cut * mib - 1000 || vm.status().arriving === undefined,
    );
  }
  end.limit(Infinity);
  await started;
  const [, sum] = await recovered.printed(/ckptfs-guest: (PASS [^\r\n]+)\r?\n/);
  t.equal(sum, expected);
  t.match(sum, /^PASS rounds=8 /);
  await arriving.whole;
  t.same(await verifyCheckpoint((await findCheckpoint(near, 'web@one')).directory), []);
  t.equal(news.filter((text) => text === 'the checkpoint comes again').length, 5);
  t.equal(news.filter((text) => text.includes('does not come: the connection was lost')).length, 5);
  t.notMatch(recovered.text, /I\/O error/);
});

t.test('a VM that ends before: the next recovery goes on with what has come', async (t) => {
  const { near, end, source } = await setup(t, { stillMib: 24, diskMib: 24 });
  end.limit(30 * mib);
  const { vm, arriving } = await recover(t, near, end);
  await vm.start();
  await until('some of it', () => arriving.status().doneBytes > 20 * mib);
  const { doneBytes } = arriving.status();
  await vm.stop();
  t.same(await listCheckpoints(near, 'web'), []);
  t.notOk(await pathExists(join(near.vmDirectory('web'), 'disks')), 'no disks with holes are left');
  await t.rejects(Vm.restart(near, 'web'), { code: 'NOT_FOUND' });

  const before = end.bytes;
  end.limit(Infinity);
  const { vm: second, arriving: rest } = await recover(t, near, end);
  t.ok(rest.status().doneBytes >= doneBytes, `${rest.status().doneBytes} bytes count`);
  await second.start();
  await rest.whole;
  const total = totalOf(source.manifest);
  t.ok(end.bytes - before <= total - doneBytes + mib, 'only the rest came');
  const { directory } = await findCheckpoint(near, 'web@one');
  t.same(await contentsOf(directory), await contentsOf(source.directory));
});

t.test(
  'what was not durable before a power cut does not count, and what is lost with it comes again',
  async (t) => {
    const { near, end, source } = await setup(t, { stillMib: 8, diskMib: 8 });
    end.limit(8 * mib);
    const { vm, arriving } = await recover(t, near, end);
    await vm.start();
    await until('some of it', () => arriving.status().doneBytes > 6 * mib);
    await vm.stop();
    // The notes of one file are lost, those of another are torn, a third file is another one than was noted.
    const incoming = near.incomingDirectory('web');
    const sparse = (await namesIn(incoming)).filter((name) => name.endsWith('.sparse'));
    const notes = (name: string) => join(incoming, name.replace('.sparse', '.pieces'));
    const known = [];
    for (const name of sparse) if (await pathExists(notes(name))) known.push(name);
    t.ok(known.length >= 2, `${known.length} files have notes`);
    for (const [i, name] of known.entries()) {
      const bytes = await readFile(join(incoming, name));
      if (i % 2 === 0) {
        const torn = await readFile(notes(name));
        torn.writeUInt8((torn.readUInt8(16) ^ 0xff) & 0xff, 16);
        await writeFile(notes(name), torn);
        await writeFile(join(incoming, name), bytes.fill(0xee));
      } else {
        await rm(join(incoming, name));
        await writeFile(join(incoming, name), bytes.fill(0xee));
      }
    }
    end.limit(Infinity);
    const { vm: second, arriving: rest } = await recover(t, near, end);
    await second.start();
    await rest.whole;
    const { directory } = await findCheckpoint(near, 'web@one');
    t.same(await contentsOf(directory), await contentsOf(source.directory));
    t.same(await verifyCheckpoint(directory), []);
  },
);

t.test('under another name, and in the place of another VM', async (t) => {
  const { near, end, source } = await setup(t, { stillMib: 8, diskMib: 8 });
  const other = await busyVm(near, { stillMib: 1, busyMib: 1, diskMib: 1, name: 'web' });
  await other.close();
  const before = await pictureOf(join(near.vmDirectory('web'), 'disks'));
  const config = await readFile(near.configFile('web'), 'utf8');
  end.limit(2 * mib);
  const { vm } = await recover(t, near, end);
  await vm.start();
  await vm.close();
  t.same(await pictureOf(join(near.vmDirectory('web'), 'disks')), before, 'its disks are back');
  t.equal(await readFile(near.configFile('web'), 'utf8'), config);

  end.limit(Infinity);
  const { vm: renamed, arriving } = await recover(t, near, end, 'web2');
  await renamed.start();
  await arriving.whole;
  await renamed.saved();
  await goesOn(renamed);
  t.match(JSON.parse(await readFile(near.configFile('web2'), 'utf8')), { name: 'web2' });
  t.same(await pictureOf(join(near.vmDirectory('web'), 'disks')), before);
  const { directory } = await findCheckpoint(near, 'web@one');
  t.same(await contentsOf(directory), await contentsOf(source.directory));
});

t.test('bytes that change on their way are refused, and never published', async (t) => {
  const { near, end, source } = await setup(t, { stillMib: 8, diskMib: 24 });
  const files = source.manifest?.files ?? [];
  const parent = files.find(({ path }) => path.endsWith('.raw'));
  // The parent has no checksums of its own: the last to come.
  const bytes = await readFile(join(source.directory, parent?.path ?? ''));
  const mark = bytes.subarray(bytes.length - 5000, bytes.length - 4968);
  let changed = 0;
  end.change = (chunk) => {
    const at = chunk.indexOf(mark);
    if (at >= 0) {
      chunk.writeUInt8(chunk.readUInt8(at) ^ 1, at);
      changed++;
    }
    return chunk;
  };
  const { vm, arriving, watch } = await recover(t, near, end);
  await vm.start();
  const error = await watch.failed();
  t.match(error, { code: 'DAMAGED', message: /raw has not arrived as it is at the far end/ });
  t.equal(changed, 1);
  await t.rejects(arriving.whole, { code: 'DAMAGED' });
  t.match(await watch.ended(), { kind: 'stopped' }, 'the VM does not go on');
  await vm.close();
  t.same(await listCheckpoints(near, 'web'), []);
  const { bytes: before } = end;
  end.change = (chunk) => chunk;
  const { vm: second, arriving: rest } = await recover(t, near, end);
  await second.start();
  await rest.whole;
  t.ok(end.bytes - before < 26 * mib, 'that file came again, and no other');
  const { directory } = await findCheckpoint(near, 'web@one');
  t.same(await contentsOf(directory), await contentsOf(source.directory));
});

for (const [where, strideBytes] of [
  ['here and there', mib],
  ['everywhere, also where it goes on,', 256],
] as const) {
  t.test(`memory that is damaged ${where} stops the VM, and is never published`, async (t) => {
    const { near, end, source } = await setup(t, { stillMib: 8, diskMib: 4 });
    for (const { path: segment } of source.manifest?.files ?? []) {
      if (!/\.(hot|cold)$/.test(segment)) continue;
      const path = join(source.directory, segment);
      const bytes = await readFile(path);
      for (let at = 4096 + strideBytes; at < bytes.length - 8192; at += strideBytes)
        bytes.writeUInt8(bytes.readUInt8(at) ^ 1, at);
      await writeFile(path, bytes);
    }
    const { vm, arriving, watch } = await recover(t, near, end);
    await vm.start();
    t.match(await watch.failed(), { code: 'DAMAGED' });
    await until('all has come', () => arriving.status().doneBytes === arriving.status().totalBytes);
    const sums = () => end.requests.filter(({ type }) => type === 'sum').length;
    await until('the checksums', () => sums() > 4);
    await vm.close();
    t.same(await listCheckpoints(near, 'web'), []);
  });
}

t.test('damage that shows when the guest has ended ends the VM, too', async (t) => {
  const { store: far, remove } = await temporaryStore();
  t.teardown(remove);
  const initrd = join(far.root, '..', 'initrd');
  const stillBytes = 64 * mib;
  const still = randomBytes(stillBytes);
  await writeFile(initrd, still);
  const counting = bareConfig('count', 'kib=64 steps=40000000', {
    ...{ name: 'web', initrd, memoryBytes: stillBytes + 16 * mib },
  });
  const { vm: first, watch: printed } = await boot(far, counting);
  await printed.printed(/mark 4/);
  await first.checkpoint({ name: 'one', suspend: true });
  await first.close();
  const source = await findCheckpoint(far, 'web@one');
  const mark = still.subarray(stillBytes - 5000, stillBytes - 4968);
  let changed = 0;
  for (const { path: file } of source.manifest?.files ?? []) {
    const path = join(source.directory, file);
    const bytes = await readFile(path);
    const at = bytes.indexOf(mark);
    if (at < 0) continue;
    bytes.writeUInt8(bytes.readUInt8(at) ^ 1, at);
    await writeFile(path, bytes);
    changed++;
  }
  t.equal(changed, 1, 'what the guest never reads is damaged');

  const near = await Store.open(join(far.root, '..', 'near'), { create: true });
  const end = new FarEnd(far, 'web', 'one');
  end.limit(4 * mib);
  const { vm, arriving, watch } = await recover(t, near, end);
  await vm.start();
  const trickle = setInterval(() => end.allow(128 << 10), 20);
  t.match(await watch.ended().finally(() => clearInterval(trickle)), {
    kind: 'shutdown',
    reason: 0,
  });
  t.ok(end.bytes < stillBytes / 2, 'before all has come');
  end.limit(Infinity);
  await until('it is told', () => watch.error !== undefined);
  t.match(watch.error, { code: 'DAMAGED', message: /checksum mismatch/ });
  await vm.saved();
  await t.rejects(arriving.whole, { code: 'CANCELLED' });
  t.same(await listCheckpoints(near, 'web'), []);
});

t.test('what the disk has lost at the end is not published, and ends the VM', async (t) => {
  const { near, end } = await setup(t, { stillMib: 8, diskMib: 4 });
  const { vm, arriving, watch } = await recover(t, near, end);
  const told = await failOneSync(t, 'sync', { path: /\.tmp-receive-/ });
  await vm.start();
  t.match(await watch.failed(), { code: 'IO' });
  t.equal(told.failed, 1);
  await t.rejects(arriving.whole, { code: 'IO' });
  t.match(await watch.ended(), { kind: 'stopped' });
  await vm.close();
  t.same(await listCheckpoints(near, 'web'), []);
  t.notOk(await pathExists(near.incomingDirectory('web')), 'nothing that came is kept');
});

t.test('a far end that cannot be opened', async (t) => {
  const { near, end, source } = await setup(t, { stillMib: 1, diskMib: 1 });
  const none = new FarEnd(await Store.open(join(source.directory, '../../../..')), 'web', 'none');
  await t.rejects(none.dial(new AbortController().signal), { code: 'NOT_FOUND' });
  // Cut before what opening takes has come.
  end.limit(1000);
  const opening = recover(t, near, end);
  await until('it is asked for', () => reads(end).length > 0);
  end.cut();
  await t.rejects(opening, { code: 'IO' });
  end.limit(Infinity);
  const { vm, arriving } = await recover(t, near, end);
  await vm.start();
  await arriving.whole;
  const there = await Arrival.begin(await end.dial(new AbortController().signal), end.dial, near, {
    vm: 'web',
    name: 'one',
  });
  t.equal(there, undefined, 'the store has it');
});
