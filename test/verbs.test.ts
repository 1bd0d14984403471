/**
 * The verbs of a VM while others are under way: pause, resume, checkpoint, cancel, stop, and the guest's own
 * end. Whatever the order, the guest goes on or has ended, and the store holds whole checkpoints only.
 */
import { mkdirSync } from 'node:fs';
import { mkdir, readdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import t, { type Test } from 'tap';
import { findCheckpoint, listCheckpointNames } from '../src/checkpoint/checkpoints.js';
import { verifyCheckpoint } from '../src/checkpoint/verify.js';
import { CkptError } from '../src/errors.js';
import { lockFile } from '../src/native.js';
import type { CheckpointEvent, DiskConfig } from '../src/types.js';
import { storeView } from '../src/fs/store_view.js';
import { Tree } from '../src/fs/tree.js';
import { Vm } from '../src/vmm/vm.js';
import {
  bareConfig,
  boot,
  temporaryDirectory,
  temporaryStore,
  until,
  Watch,
} from './support/guests.js';

const mib = 2 ** 20;
const recursive = { recursive: true };

/** A VM that writes at random, without end. */
async function writer(t: Test, disks: Partial<DiskConfig>[] = []) {
  const { store, remove } = await temporaryStore();
  t.teardown(remove);
  const config = bareConfig('random-writer', 'harts=2 mib=4', { name: 'vm', cpus: 2 });
  const { vm, watch } = await boot(store, { ...config, disks });
  t.teardown(() => vm.close());
  await watch.printed(/random-writer/);
  return { store, vm, watch };
}

async function goesOn(t: Test, vm: Vm): Promise<void> {
  const before = vm.status().instructions;
  for (let i = 0; i < 100_000 && vm.status().instructions === before; i++) await setImmediate();
  t.ok(vm.status().instructions > before, 'the guest goes on');
}

t.test('resume while a pause is under way', async (t) => {
  const { vm } = await writer(t);
  for (let round = 0; round < 20; round++) {
    const pause = vm.pause();
    let resumed = true;
    try {
      vm.resume();
    } catch {
      resumed = false;
    }
    await pause;
    if (!resumed) vm.resume();
    await goesOn(t, vm);
  }
  const two = await Promise.allSettled([vm.pause(), vm.pause()]);
  t.match(two, [{ status: 'fulfilled' }, { status: 'rejected', reason: { code: 'BUSY' } }]);
  vm.resume();
  await vm.close();
  await t.rejects(vm.pause(), { code: 'USAGE' });
  t.throws(() => vm.status(), { code: 'USAGE' });
});

t.test('a checkpoint that is cancelled, at whatever moment, is not published', async (t) => {
  const { store, vm } = await writer(t);
  let cancelled = 0;
  for (let turns = 0; turns < 40; turns++) {
    const abort = new AbortController();
    const name = `c${turns}`;
    const state = { settled: false };
    const save = vm
      .checkpoint({ name, codec: 'lz4', wait: true }, { signal: abort.signal })
      .then(
        () => undefined,
        (error: unknown) => error,
      )
      .finally(() => (state.settled = true));
    for (let i = 0; i < turns; i++) await setImmediate();
    const late = state.settled;
    abort.abort();
    const error = await save;
    if (late) continue;
    cancelled++;
    if (!(error instanceof CkptError && error.code === 'CANCELLED')) {
      // Publishing may have begun already; then it is whole.
      const published = (await listCheckpointNames(store, 'vm')).includes(name);
      if (error !== undefined || !published) t.fail(`after ${turns} turns: ${String(error)}`);
      else if (turns < 5) t.fail(`after ${turns} turns: it was published`);
    }
  }
  t.ok(cancelled > 5, `${cancelled} were cancelled in time`);
  const left = await readdir(store.checkpointsDirectory('vm'));
  t.notOk(left.some((name) => name.startsWith('.tmp-')));
  await goesOn(t, vm);
  const save = vm.checkpoint({ name: 'closed', codec: 'lz4', wait: true });
  save.catch(() => undefined);
  await vm.close();
  await t.rejects(save, { code: 'CANCELLED', message: /VM vm was stopped before/ });
});

t.test('suspended: paused after its checkpoint, until it is resumed', async (t) => {
  const { store, vm } = await writer(t);
  const save = vm.checkpoint({ name: 'one', suspend: true });
  await t.rejects(vm.pause(), { code: 'BUSY' });
  t.throws(() => vm.resume(), { code: 'BUSY' });
  const { id } = await save;
  t.match(vm.status(), { state: 'paused', suspended: { id, name: 'one' }, trackedId: id });
  const { instructions } = vm.status();
  t.equal((await vm.checkpoint({ name: 'two', suspend: true })).state, 'published');
  t.match(vm.status(), { state: 'paused', instructions, suspended: { name: 'two' } });
  vm.resume();
  t.notOk('suspended' in vm.status());
  await goesOn(t, vm);
  await t.rejects(vm.checkpoint({ name: 'one', suspend: true }), { code: 'EXISTS' });
  await goesOn(t, vm);
  // It fails after the pause: its name is taken meanwhile.
  const taken = () => mkdirSync(join(store.checkpointDirectory('vm', 'three'), 'x'), recursive);
  await t.rejects(vm.checkpoint({ name: 'three', suspend: true }, { onResumed: taken }), {
    code: 'EXISTS',
  });
  t.notOk('suspended' in vm.status());
  await goesOn(t, vm);
});

t.test(
  'a checkpoint nobody waits for tells of its failure, the next one of its success',
  async (t) => {
    const { store, vm } = await writer(t);
    const events: CheckpointEvent[] = [];
    vm.on('checkpoint', (event) => events.push(event));
    const taken = () => mkdirSync(join(store.checkpointDirectory('vm', 'one'), 'x'), recursive);
    const summary = await vm.checkpoint({ name: 'one', wait: false }, { onResumed: taken });
    t.equal(summary.state, 'saving');
    await until('a failure', () => events.length > 0);
    const failure = { name: 'one', code: 'EXISTS', message: /exists already/, at: /^20/ };
    t.match(events, [{ type: 'failed', failure }]);
    t.match(vm.status(), { lastError: failure });
    await t.rejects(vm.checkpoint({ name: 'one' }), { code: 'EXISTS' });
    t.equal(events.length, 1, 'who asked is told already');
    await vm.checkpoint({ name: 'two' });
    t.match(events[1], { type: 'published', checkpoint: { name: 'two' } });
    t.notOk('lastError' in vm.status());
    vm.declareCheckpoint();
    await until('a checkpoint', () => events.length > 2);
    t.match(events[2], { type: 'published', checkpoint: { name: /^auto-20/, parentId: String } });
  },
);

t.test('the memory of a checkpoint under way, in the mount, is that of its pause', async (t) => {
  const { store, vm } = await writer(t);
  const tree = new Tree(storeView(store, vm));
  const path = '/vms/vm/checkpoints/slow';
  const listed = async () => (await tree.list(path)).slice(2).map(({ name }) => name);
  let resumed: () => void = () => undefined;
  const pause = new Promise<void>((resolve) => (resumed = resolve));
  const request = { name: 'slow', limitBytesPerSecond: mib };
  const save = vm.checkpoint(request, { oracle: true, onResumed: resumed });
  await pause;
  t.same(await listed(), ['memory']);
  const { source, release } = await (await tree.node(`${path}/memory`)).open();
  const found = Buffer.alloc(source.bytes);
  await source.read(found, 0);
  t.ok(vm.saving(), 'it is still under way');
  t.ok(found.equals(vm.oracle()));
  const { id } = await save;
  t.notOk(vm.saving());
  t.ok((await listed()).includes('manifest.json'));
  found.fill(0);
  await source.read(found, 0);
  t.ok(found.equals(vm.oracle()), 'what is open stays readable');
  release();
  const stored = await (await tree.node(`${path}/memory`)).open();
  await stored.source.read(found, 0);
  t.ok(found.equals(vm.oracle()), `published as ${id}`);
  stored.release();
});

t.test('scheduled checkpoints: the oldest go, named ones stay', async (t) => {
  const { store, remove } = await temporaryStore();
  t.teardown(remove);
  const schedule = { afterWrittenBytes: 1, keep: 2 };
  const config = bareConfig('random-writer', 'mib=1', { name: 'vm', schedule });
  const { vm } = await boot(store, config);
  t.teardown(() => vm.close());
  const events: CheckpointEvent[] = [];
  vm.on('checkpoint', (event) => events.push(event));
  await vm.checkpoint({ name: 'mine' });
  await until('four checkpoints', () => (vm.status().schedule?.taken ?? 0) >= 4);
  await vm.close();
  const names = await listCheckpointNames(store, 'vm');
  const scheduled = names.filter((name) => name.startsWith('auto-'));
  t.ok(scheduled.length === 2 || scheduled.length === 3, names.join());
  t.ok(names.includes('mine'));
  t.same(
    events.filter(({ type }) => type === 'failed'),
    [],
  );
});

t.test('a name whose VM was cut short before it had a configuration is free', async (t) => {
  const { store, remove } = await temporaryStore();
  t.teardown(remove);
  await store.createVm('vm');
  await mkdir(join(store.vmDirectory('vm'), 'disks.new'), recursive);
  const lock = lockFile(store.lockFile('vm'));
  const config = bareConfig('random-writer', 'mib=1', { name: 'vm' });
  await t.rejects(Vm.create(store, config), { code: 'EXISTS' }, 'it is just being made');
  lock?.unlock();
  const { vm } = await boot(store, config);
  await vm.close();
  t.notOk((await readdir(store.vmDirectory('vm'))).includes('disks.new'));
  await t.rejects(Vm.create(store, config), { code: 'EXISTS' }, 'it is a VM now');
  await rm(store.configFile('vm'));
  await (await Vm.create(store, config)).close();
});

t.test('paused, twice in a row, with seven disks, and right after a restore', async (t) => {
  const scratch = await temporaryDirectory();
  t.teardown(scratch.remove);
  const disks: Partial<DiskConfig>[] = [];
  for (let i = 0; i < 7; i++) {
    const path = join(scratch.path, `${i}.img`);
    await writeFile(path, Buffer.alloc(mib, i));
    disks.push({
      path,
      ...(i === 2 ? { readonly: true } : { mode: i % 2 ? 'persistent' : 'nonpersistent' }),
    });
  }
  const { store, vm } = await writer(t, disks);
  await vm.checkpoint({ name: 'one', codec: 'lz4', wait: true });
  await vm.checkpoint({ name: 'two', codec: 'none', wait: true });
  await vm.pause();
  await vm.checkpoint({ name: 'three', codec: 'lz4', wait: true }, { oracle: true });
  const paused = vm.status();
  t.equal(paused.state, 'paused');
  const first = vm.oracle();
  await vm.checkpoint({ name: 'four', codec: 'lz4', wait: true }, { oracle: true });
  t.ok(first.equals(vm.oracle()), 'nothing ran between two checkpoints of a paused guest');
  t.equal(vm.status().guestTicks, paused.guestTicks);
  t.equal(vm.status().instructions, paused.instructions);
  await vm.close();
  for (const name of ['one', 'two', 'three', 'four']) {
    const { directory } = await findCheckpoint(store, `vm@${name}`);
    t.same(await verifyCheckpoint(directory), [], name);
  }
  for (const name of ['four', 'one', 'two']) {
    const again = await Vm.restore(store, await findCheckpoint(store, `vm@${name}`), {
      lazy: true,
    });
    t.teardown(() => again.close());
    await again.start();
    await again.checkpoint({ name: `${name}-again`, codec: 'lz4', wait: true });
    await goesOn(t, again);
    await again.close();
    const { directory } = await findCheckpoint(store, `vm@${name}-again`);
    t.same(await verifyCheckpoint(directory), [], `${name}-again`);
  }
  const restarted = await Vm.restart(store, 'vm');
  t.teardown(() => restarted.close());
  const watch = new Watch(restarted);
  await restarted.start();
  await watch.printed(/random-writer/);
});

t.test('the guest ends while it is being saved', async (t) => {
  const { store, remove } = await temporaryStore();
  t.teardown(remove);
  for (let round = 0; round < 8; round++) {
    const { vm, watch } = await boot(
      store,
      bareConfig('count', `harts=2 steps=${200_000 + round * 100_000} kib=512`, {
        name: `vm${round}`,
        cpus: 2,
      }),
    );
    t.teardown(() => vm.close());
    const saves: Promise<unknown>[] = [];
    for (let i = 0; !watch.exit; i++) {
      const save = vm.checkpoint({ name: `c${i}`, codec: 'lz4', wait: true });
      saves.push(save.catch((error: unknown) => error));
      await saves.at(-1);
    }
    for (const outcome of await Promise.all(saves)) {
      if (outcome instanceof CkptError) t.equal(outcome.code, 'USAGE');
    }
    t.same(watch.exit, { kind: 'shutdown', reason: 0 });
    const names = await listCheckpointNames(store, `vm${round}`);
    await vm.close();
    const entry = await findCheckpoint(store, `vm${round}@c${names.length - 1}`);
    const again = await Vm.restore(store, entry, { lazy: true });
    t.teardown(() => again.close());
    const end = new Watch(again);
    await again.start();
    t.same(await end.ended(), { kind: 'shutdown', reason: 0 }, 'its last checkpoint ends as well');
    await again.close();
  }
});

t.test('a guest that prints without end does not fill the memory of its VM', async (t) => {
  const { path, remove } = await temporaryDirectory();
  t.teardown(remove);
  const { store, remove: removeStore } = await temporaryStore();
  t.teardown(removeStore);
  const kernel = join(path, 'flood.elf');
  await writeFile(kernel, floodElf());
  const vm = await Vm.create(store, { name: 'vm', kernel, memoryBytes: 16 * mib });
  t.teardown(() => vm.close());
  let largest = 0;
  vm.on('console', (data) => (largest = Math.max(largest, data.length)));
  await vm.start();
  // JavaScript is busy for a while, again and again, until the guest has had the time to print a lot.
  const nap = new Int32Array(new SharedArrayBuffer(4));
  while (vm.status().instructions < 2e5) {
    Atomics.wait(nap, 0, 0, 200);
    await setImmediate();
  }
  t.ok(largest > 0 && largest <= mib, `${largest} bytes at most were kept`);
});

/** A bare-metal ELF that prints 4 KiB of RAM by one SBI call after the other. */
function floodElf(): Buffer {
  const code = [
    0x444248b7, // lui a7, 0x44424
    0x34e88893, // addi a7, a7, 0x34e: SBI DBCN
    0x00001537, // lui a0, 1: 4096 bytes
    0x00100593, // li a1, 1
    0x01f59593, // slli a1, a1, 31: from the start of RAM
    0x00000613, // li a2, 0
    0x00000813, // li a6, 0: write
    0x00000073, // ecall
    0xfe9ff06f, // j -24
  ];
  const [base, headers] = [0x80000000n, 120];
  const bytes = 4 * code.length;
  const elf = Buffer.alloc(headers + bytes);
  elf.write('\x7fELF\x02\x01\x01', 'latin1');
  elf.writeUInt16LE(2, 16); // executable
  elf.writeUInt16LE(243, 18); // RISC-V
  elf.writeUInt32LE(1, 20);
  elf.writeBigUInt64LE(base, 24); // entry
  elf.writeBigUInt64LE(64n, 32); // program headers
  elf.writeUInt16LE(64, 52);
  elf.writeUInt16LE(56, 54);
  elf.writeUInt16LE(1, 56);
  elf.writeUInt32LE(1, 64); // PT_LOAD
  elf.writeUInt32LE(5, 68);
  elf.writeBigUInt64LE(BigInt(headers), 72);
  elf.writeBigUInt64LE(base, 80);
  elf.writeBigUInt64LE(base, 88);
  elf.writeBigUInt64LE(BigInt(bytes), 96);
  elf.writeBigUInt64LE(BigInt(bytes), 104);
  code.forEach((word, i) => elf.writeUInt32LE(word, headers + 4 * i));
  return elf;
}
