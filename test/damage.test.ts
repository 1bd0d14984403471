/**
 * Damage (requirement F5): any one changed byte of a published checkpoint is found by verify and never
 * reaches a guest or a reader.
 */
import { open, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { diskLayers, findCheckpoint, openCheckpoint } from '../src/checkpoint/checkpoints.js';
import { walkTree } from '../src/checkpoint/files.js';
import { verifyCheckpoint } from '../src/checkpoint/verify.js';
import { CkptError } from '../src/errors.js';
import { openDisk, openMemoryImage } from '../src/native.js';
import { Vm } from '../src/vmm/vm.js';
import { bareConfig, boot, temporaryDirectory, temporaryStore, Watch } from './support/guests.js';

/** More than this suite takes on a slow machine. */
const suiteLimitMs = 900_000;
const mib = 2 ** 20;
/** Small files are tried byte by byte; of large ones so many places, spread evenly, and both ends. */
const placesPerFile = 400;

t.setTimeout(suiteLimitMs);

/** A small VM with a disk, checkpointed twice, so that the second checkpoint has a sealed redo log. */
async function publish(t: Test) {
  const { store, remove } = await temporaryStore();
  t.teardown(remove);
  const scratch = await temporaryDirectory();
  t.teardown(scratch.remove);
  const parent = join(scratch.path, 'parent.img');
  await writeFile(parent, Buffer.alloc(mib, 0x5a));
  const { vm, watch } = await boot(
    store,
    bareConfig('random-writer', 'mib=1', {
      name: 'vm',
      memoryBytes: 4 * mib,
      disks: [{ path: parent }],
    }),
  );
  t.teardown(() => vm.close());
  await watch.printed(/random-writer/);
  await vm.checkpoint({ name: 'first', codec: 'lz4', wait: true });
  await vm.checkpoint({ name: 'second', codec: 'lz4', wait: true }, { oracle: true });
  const oracle = vm.oracle();
  await vm.close();
  const entry = await findCheckpoint(store, 'vm@second');
  return { store, directory: entry.directory, oracle, parent };
}

/** Runs `body` with one byte of the file changed, and changes it back. */
async function withFlip(file: string, offset: number, body: () => Promise<void>): Promise<void> {
  const handle = await open(file, 'r+');
  const byte = Buffer.alloc(1);
  try {
    await handle.read(byte, 0, 1, offset);
    await handle.write(Buffer.from([(byte[0] ?? 0) ^ (1 << (offset % 8))]), 0, 1, offset);
    await body();
    await handle.write(byte, 0, 1, offset);
  } finally {
    await handle.close();
  }
}

function places(bytes: number): number[] {
  const step = Math.max(1, Math.floor(bytes / placesPerFile));
  const found = new Set([0, 1, 8, 63, bytes - 1, bytes - 2]);
  // An odd stride within each step, so that all positions within a record are met.
  for (let i = 0; i * step < bytes; i++) found.add(i * step + ((i * 7) % step));
  return [...found].filter((offset) => offset >= 0 && offset < bytes);
}

t.test('a changed byte anywhere is found, and no reader gets wrong bytes', async (t) => {
  const { directory, oracle } = await publish(t);
  t.same(await verifyCheckpoint(directory), [], 'undamaged, it verifies');
  const tree = await walkTree(directory);
  t.ok(
    [...tree.files.keys()].some((path) => path.endsWith('.redo')),
    'it has a redo log',
  );
  for (const [path, bytes] of tree.files) {
    const missed: number[] = [];
    const wrong: number[] = [];
    for (const offset of places(bytes)) {
      await withFlip(join(directory, path), offset, async () => {
        if ((await verifyCheckpoint(directory)).length === 0) missed.push(offset);
        if (!(await readsTrue(directory, oracle))) wrong.push(offset);
      });
    }
    t.same(missed, [], `${path}: verify found a change at each of ${places(bytes).length} places`);
    t.same(wrong, [], `${path}: readers got true bytes or an error`);
  }
  t.same(await verifyCheckpoint(directory), [], 'undone, it verifies again');
});

/** Reads memory and disks as a mount would; false if any byte is wrong. */
async function readsTrue(directory: string, oracle: Buffer): Promise<boolean> {
  try {
    const checkpoint = await openCheckpoint(directory);
    const disk = await openDisk(diskLayers(checkpoint, 'vda'));
    const contents = Buffer.alloc(disk.bytes);
    await disk.read(contents, 0);
    disk.close();
    if (contents.some((byte) => byte !== 0x5a)) return false;
    const memory = await openMemoryImage(directory);
    const found = Buffer.alloc(memory.bytes);
    await memory.read(found, 0);
    memory.close();
    return found.equals(oracle);
  } catch (error) {
    // A changed version number makes a file of a version that is not known.
    return error instanceof CkptError && ['DAMAGED', 'UNSUPPORTED'].includes(error.code);
  }
}

t.test('a truncated file of each kind is found', async (t) => {
  const { directory } = await publish(t);
  for (const path of (await walkTree(directory)).files.keys()) {
    const file = join(directory, path);
    const whole = await readFile(file);
    await writeFile(file, whole.subarray(0, whole.length - 1));
    t.not((await verifyCheckpoint(directory)).length, 0, `${path} one byte short`);
    await writeFile(file, whole);
  }
  t.same(await verifyCheckpoint(directory), []);
});

t.test('a guest that meets a damaged block stops, and goes on once it is mended', async (t) => {
  const { store, directory } = await publish(t);
  const tree = await walkTree(directory);
  // Every stored byte of guest memory that is in use lies in a segment; damage the middle of each.
  const segments = [...tree.files].filter(([path]) => /\.(hot|cold)$/.test(path));
  const wholes = new Map<string, Buffer>();
  for (const [path, bytes] of segments) {
    const file = join(directory, path);
    wholes.set(file, await readFile(file));
    const handle = await open(file, 'r+');
    for (let offset = 4096 + 2048; offset + 4096 < bytes; offset += 1024) {
      await handle.write(Buffer.from([0xa5, 0x5a, 0xa5, 0x5a]), 0, 4, offset);
    }
    await handle.close();
  }
  const vm = await Vm.restore(store, { directory }, { name: 'copy', lazy: true });
  t.teardown(() => vm.close());
  const watch = new Watch(vm);
  await vm.start();
  const error = await watch.failed();
  t.match(error.message, /\.(hot|cold)/, 'the error names the file');
  t.equal(vm.status().state, 'failed');

  for (const [file, whole] of wholes) await writeFile(file, whole);
  await vm.retryRestore();
  const { instructions } = vm.status();
  for (let i = 0; vm.status().instructions === instructions && i < 1000; i++) {
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  t.equal(vm.status().state, 'running');
  t.ok(vm.status().instructions > instructions, 'the guest goes on');
});

t.test('an eager restore of a damaged checkpoint fails and leaves nothing', async (t) => {
  const { store, directory } = await publish(t);
  const tree = await walkTree(directory);
  const cold = [...tree.files.keys()].find((path) => path.endsWith('.cold')) ?? '';
  await withFlip(join(directory, cold), 4096 + 200, async () => {
    await t.rejects(Vm.restore(store, { directory }, { name: 'copy', lazy: false }), {
      code: 'DAMAGED',
    });
  });
  t.notOk(await store.hasVm('copy'));
});

t.test('a parent that has changed since is refused', async (t) => {
  const { store, directory, parent } = await publish(t);
  await writeFile(parent, Buffer.alloc(mib, 0x5b));
  t.not((await verifyCheckpoint(directory)).length, 0);
  await t.rejects(Vm.restore(store, { directory }, { name: 'copy', lazy: true }), {
    code: 'DAMAGED',
    message: /parent/,
  });
});
