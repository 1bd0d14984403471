/**
 * A restored guest goes on to the same result as one that was never interrupted (requirements C1 to C7),
 * on 1 and 2 harts, lazily and eagerly, with and without compression.
 */
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import t from 'tap';
import { findCheckpoint } from '../src/checkpoint/checkpoints.js';
import { Vm } from '../src/vmm/vm.js';
import { bareConfig, boot, temporaryDirectory, temporaryStore, Watch } from './support/guests.js';

const passed = /ckptfs-bare: PASS sum=(\w+)\r?\n/;

for (const harts of [1, 2]) {
  t.test(`a self-checking guest on ${harts} harts`, async (t) => {
    const { store, remove } = await temporaryStore();
    t.teardown(remove);
    const config = bareConfig('count', `harts=${harts} steps=4000000 kib=2048`, { cpus: harts });

    const straight = await boot(store, { ...config, name: 'straight' });
    t.teardown(() => straight.vm.close());
    const [, expected] = await straight.watch.printed(passed);
    t.same(await straight.watch.ended(), { kind: 'shutdown', reason: 0 });

    // Interrupted twice: a checkpoint of a restored guest continues as well.
    const first = await boot(store, { ...config, name: 'first' });
    t.teardown(() => first.vm.close());
    // Harts need not be abreast: the one that prints this is past it in the checkpoint.
    const [, ahead] = await first.watch.printed(/hart (\d) mark 5/);
    await first.vm.checkpoint({ name: 'early', codec: 'lz4', wait: true });
    const [, unharmed] = await first.watch.printed(passed);
    t.equal(unharmed, expected, 'the guest that was checkpointed is unharmed');
    await first.vm.close();

    for (const lazy of [true, false]) {
      const how = lazy ? 'lazy' : 'eager';
      const vm = await Vm.restore(store, await findCheckpoint(store, 'first@early'), {
        name: `second-${how}`,
        lazy,
      });
      t.teardown(() => vm.close());
      const watch = new Watch(vm);
      await vm.start();
      await watch.printed(/mark 9/);
      await vm.checkpoint({ name: 'late', codec: 'none', wait: true });
      await vm.close();
      t.notMatch(
        watch.text,
        new RegExp(`hart ${ahead} mark 4`),
        `${how}: it went on, not from the start`,
      );

      const again = await Vm.restore(store, await findCheckpoint(store, `second-${how}@late`), {
        lazy,
        // Or all of it may have come before anything is needed.
        limitBytesPerSecond: lazy ? 4 << 20 : undefined,
      });
      t.teardown(() => again.close());
      const end = new Watch(again);
      await again.start();
      const [, sum] = await end.printed(passed);
      t.equal(sum, expected, `${how}: the same result`);
      t.same(await end.ended(), { kind: 'shutdown', reason: 0 });
      const progress = again.restoreProgress();
      t.ok(progress && progress.firstInstructionUs > 0, 'the first instruction was timed');
      if (lazy) t.ok(progress && progress.blocks.demand > 0, 'blocks were loaded on demand');
    }
  });
}

t.test('a read of a restoring VM’s memory faults its pages in', async (t) => {
  const { store, remove } = await temporaryStore();
  t.teardown(remove);
  const { vm } = await boot(store, bareConfig('count', 'steps=400000000', { name: 'origin' }));
  t.teardown(() => vm.close());
  await vm.pause();
  await vm.checkpoint({ name: 'still', codec: 'lz4', wait: true }, { oracle: true });
  const expected = vm.oracle();
  await vm.close();

  const restored = await Vm.restore(store, await findCheckpoint(store, 'origin@still'), {
    name: 'copy',
    lazy: true,
  });
  t.teardown(() => restored.close());
  // Not started: nothing but this read makes its pages be loaded.
  const memory = restored.memory();
  const found = Buffer.alloc(memory.bytes);
  t.equal(await memory.read(found, 0), memory.bytes);
  t.ok(found.equals(expected), 'what was read is what was saved');
});

t.test('a restore in place that fails leaves the disks of the VM as they were', async (t) => {
  const { store, remove } = await temporaryStore();
  t.teardown(remove);
  const scratch = await temporaryDirectory();
  t.teardown(scratch.remove);
  const parent = join(scratch.path, 'parent.img');
  await writeFile(parent, Buffer.alloc(1 << 20, 0x5a));
  const { vm, watch } = await boot(
    store,
    bareConfig('random-writer', 'mib=1', { name: 'vm', disks: [{ path: parent }] }),
  );
  t.teardown(() => vm.close());
  await watch.printed(/random-writer/);
  await vm.checkpoint({ name: 'good', codec: 'lz4', wait: true });
  await vm.close();

  const entry = await findCheckpoint(store, 'vm@good');
  const files = async (): Promise<string[]> =>
    (await readdir(store.vmDirectory('vm'), { recursive: true }))
      .filter((path) => path !== 'orders')
      .sort();
  const before = await files();
  const logs = before.filter((path) => /^disks\/.*\.redo$/.test(path));
  t.equal(logs.length, 2, 'a sealed log and one that took the writes since');
  const contents = (): Promise<Buffer[]> =>
    Promise.all(logs.map((path) => readFile(join(store.vmDirectory('vm'), path))));
  const [kept, config] = [await contents(), await readFile(store.configFile('vm'))];

  // A seal that is not valid is found when the disks have been replaced already.
  const segment = before.find((path) => path.endsWith('.cold')) ?? '';
  const file = join(store.vmDirectory('vm'), segment);
  const bytes = await readFile(file);
  await writeFile(file, Buffer.concat([bytes.subarray(0, -4096), Buffer.alloc(4096)]));
  for (const lazy of [true, false]) {
    await t.rejects(Vm.restore(store, entry, { lazy }), { code: 'DAMAGED' });
    t.same(await contents(), kept, 'the disks are as they were');
    t.same(await readFile(store.configFile('vm')), config);
    t.same(await files(), before, 'and nothing half-made is left');
  }
  await writeFile(file, bytes);
  const restored = await Vm.restore(store, entry, { lazy: true });
  t.teardown(() => restored.close());
  await restored.start();
});
