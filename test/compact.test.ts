/** Compaction: contents stay, room comes back, and a kill at any moment leaves every checkpoint whole. */
import { spawn } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { appendFile, mkdir, readdir, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import t, { type Test } from 'tap';
import {
  findCheckpoint,
  listCheckpoints,
  openCheckpoint,
  removeCheckpoint,
} from '../src/checkpoint/checkpoints.js';
import { compactVm } from '../src/checkpoint/compact.js';
import { readManifest } from '../src/checkpoint/manifest.js';
import { cleanUnpublished } from '../src/checkpoint/publish.js';
import type { Store } from '../src/checkpoint/store.js';
import { verifyCheckpoint } from '../src/checkpoint/verify.js';
import { buildProgram } from '../src/cli/program.js';
import { exchangeDirectories, lockFile, openMemoryImage, verifiedSegments } from '../src/native.js';
import { Vm } from '../src/vmm/vm.js';
import { memoryHash, publishChain, sourceHash } from './support/chains.js';
import { bareConfig, boot, temporaryStore } from './support/guests.js';

// The program that writes the chains may have to be built; dozens of processes are started and killed.
t.setTimeout(900_000);

const compactor = fileURLToPath(new URL('./support/compactor.js', import.meta.url));
const names = ['c0', 'c1', 'c2', 'c3', 'c4', 'c5'];

/** A VM with a chain of checkpoints of which the first ones have been removed. */
async function storeWithChain(
  t: Test,
  options: { seed: number; blocks: number; removed?: number },
): Promise<{ store: Store; hashes: Map<string, string> }> {
  const { store, remove } = await temporaryStore();
  t.teardown(remove);
  await store.createVm('vm');
  const hashes = await publishChain(store, 'vm', names, options);
  for (const name of names.slice(0, options.removed ?? 3)) {
    await removeCheckpoint(store, await findCheckpoint(store, `vm@${name}`));
    hashes.delete(name);
  }
  return { store, hashes };
}

/** Every checkpoint is there, verifies, and holds what it held. */
async function checkAll(t: Test, store: Store, hashes: Map<string, string>): Promise<void> {
  const entries = await listCheckpoints(store, 'vm');
  t.same(
    entries.map(({ name }) => name),
    [...hashes.keys()],
  );
  const verified = verifiedSegments();
  for (const { name, directory } of entries) {
    t.same(await verifyCheckpoint(directory, { verified }), [], `${name} verifies`);
    t.equal(await memoryHash(directory), hashes.get(name), `${name} holds what it held`);
  }
}

/** Bytes of all files of the checkpoints, each counted once. */
async function diskBytes(store: Store): Promise<number> {
  const sizes = new Map<number, number>();
  for (const { directory } of await listCheckpoints(store, 'vm')) {
    for (const file of await readdir(directory)) {
      const { ino, size } = await stat(join(directory, file));
      if (/\.(hot|cold)$/.test(file)) sizes.set(ino, size);
    }
  }
  return [...sizes.values()].reduce((sum, size) => sum + size, 0);
}

t.test('room comes back, contents and everything else stay', async (t) => {
  const { store, hashes } = await storeWithChain(t, { seed: 1, blocks: 300 });
  const before = await diskBytes(store);
  const manifests = await Promise.all(
    [...hashes.keys()].map((name) => readManifest(store.checkpointDirectory('vm', name))),
  );
  const plan = await compactVm(store, 'vm', { dryRun: true });
  t.ok(plan.rewritten > 0 && plan.dryRun);
  t.equal(await diskBytes(store), before, 'a dry run changes nothing');

  const amounts: number[] = [];
  const done = await compactVm(store, 'vm', { onProgress: (bytes) => amounts.push(bytes) });
  t.match(done, { vm: 'vm', dryRun: false, rewritten: plan.rewritten, damaged: [] });
  t.same(done.checkpoints, plan.checkpoints);
  t.same(
    amounts,
    [...amounts].sort((a, b) => a - b),
  );
  t.equal(await diskBytes(store), before - done.rewrittenBytes + done.writtenBytes);
  await checkAll(t, store, hashes);
  for (const manifest of manifests) {
    const after = await readManifest(store.checkpointDirectory('vm', manifest.name));
    const rest = { files: [], checksum: '' };
    t.same({ ...after, ...rest }, { ...manifest, ...rest }, 'the rest of the manifest');
  }
  t.match(await compactVm(store, 'vm'), { rewritten: 0, checkpoints: [] }, 'nothing is left to do');
  t.same(
    (await readdir(store.checkpointsDirectory('vm'))).filter((name) => name.startsWith('.')),
    [],
  );
});

t.test('a reader of the old directory keeps what it has open', async (t) => {
  const { store, hashes } = await storeWithChain(t, { seed: 2, blocks: 100 });
  const image = await openMemoryImage(store.checkpointDirectory('vm', 'c3'));
  const before = Buffer.alloc(image.bytes);
  await image.read(before, 0);
  t.ok((await compactVm(store, 'vm')).checkpoints.includes('c3'));
  const after = Buffer.alloc(image.bytes);
  await image.read(after, 0);
  image.close();
  t.ok(before.equals(after));
  await checkAll(t, store, hashes);
});

t.test('checkpoints are opened and verified while they are exchanged', async (t) => {
  const { store } = await storeWithChain(t, { seed: 3, blocks: 60, removed: 0 });
  const one = store.checkpointDirectory('vm', 'c4');
  const other = store.checkpointDirectory('vm', 'c5');
  for (let round = 0; round < 40; round++) {
    // In their place stands suddenly a directory with other files.
    const exchanged = setTimeout(round % 8).then(() => exchangeDirectories(one, other));
    if (round % 2 === 0) await openCheckpoint(one);
    else t.same(await verifyCheckpoint(one), []);
    await exchanged;
  }
});

t.test('damaged checkpoints are left as they are', async (t) => {
  const { store, hashes } = await storeWithChain(t, { seed: 4, blocks: 100, removed: 2 });
  const damaged = store.checkpointDirectory('vm', 'c2');
  await appendFile(join(damaged, 'memory.map'), 'x');
  const files = await readdir(damaged);
  const done = await compactVm(store, 'vm');
  t.same(done.damaged, ['c2']);
  t.ok(done.rewritten > 0);
  t.same(await readdir(damaged), files);
  hashes.delete('c2');
  await rm(damaged, { recursive: true });
  await checkAll(t, store, hashes);
});

t.test('one compaction at a time, and it can be cancelled', async (t) => {
  const { store, hashes } = await storeWithChain(t, { seed: 5, blocks: 100 });
  const lock = lockFile(store.compactionLock('vm'));
  await t.rejects(compactVm(store, 'vm'), { code: 'BUSY' });
  // What the holder works on is not a leftover.
  const staging = join(store.checkpointsDirectory('vm'), '.tmp-compact-1');
  await mkdir(staging);
  t.equal(await cleanUnpublished(store, 'vm'), 0);
  lock?.unlock();
  t.equal(await cleanUnpublished(store, 'vm'), 1);
  await t.rejects(compactVm(store, 'vm', { signal: AbortSignal.abort() }), { code: 'CANCELLED' });
  await t.rejects(compactVm(store, 'none'), { code: 'NOT_FOUND' });
  await checkAll(t, store, hashes);
});

t.test('a checkpoint that is removed meanwhile stays removed', async (t) => {
  const { store, hashes } = await storeWithChain(t, { seed: 6, blocks: 100 });
  let removal: Promise<void> | undefined;
  const onProgress = (): void => {
    removal ??= findCheckpoint(store, 'vm@c3').then((entry) => removeCheckpoint(store, entry));
  };
  await compactVm(store, 'vm', { onProgress }).catch((error: unknown) => {
    t.match(error, { code: 'NOT_FOUND' }, 'or it is told');
  });
  await removal;
  if (removal) hashes.delete('c3');
  await checkAll(t, store, hashes);
});

t.test('killed at 40 moments', async (t) => {
  const { store, hashes } = await storeWithChain(t, { seed: 7, blocks: 1200 });
  const inodes = async (): Promise<number[]> => {
    const entries = await listCheckpoints(store, 'vm');
    return Promise.all(entries.map(async ({ directory }) => (await stat(directory)).ino));
  };
  /** Starts over with a chain that can be compacted. */
  const renew = async (seed: number): Promise<void> => {
    await rm(store.checkpointsDirectory('vm'), { recursive: true });
    hashes.clear();
    for (const [name, hash] of await publishChain(store, 'vm', names, { seed, blocks: 1200 })) {
      if (names.indexOf(name) >= 3) hashes.set(name, hash);
      else await removeCheckpoint(store, await findCheckpoint(store, `vm@${name}`));
    }
  };
  /** Compacts in a process that is killed after so long; whether it had ended by itself. */
  const compactFor = async (limitMs: number): Promise<boolean> => {
    const child = spawn(process.execPath, [compactor, store.root, 'vm'], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const closed = new Promise((resolve) => child.once('close', resolve));
    await new Promise((resolve) => child.stdout.once('data', resolve));
    await Promise.race([setTimeout(limitMs), closed]);
    child.kill('SIGKILL');
    await closed;
    return child.exitCode === 0;
  };
  let seed = 99;
  const random = (below: number): number => {
    seed = (Math.imul(seed, 1103515245) + 12345) >>> 0;
    return Math.floor((seed / 2 ** 32) * below);
  };

  const begun = performance.now();
  t.ok(await compactFor(60_000), 'ends by itself');
  const wholeMs = performance.now() - begun;
  await renew(8);
  let [leftovers, ended, partly] = [0, 0, 0];
  for (let round = 0; round < 40; round++) {
    const before = await inodes();
    if (await compactFor(random(wholeMs * 0.6))) ended++;
    const after = await inodes();
    const changed = after.filter((inode) => !before.includes(inode)).length;
    if (changed > 0 && changed < after.length) partly++;
    const there = await readdir(store.checkpointsDirectory('vm'));
    leftovers += there.filter((name) => name.startsWith('.tmp-')).length;
    await checkAll(t, store, hashes);
    if (round % 2 === 0) await cleanUnpublished(store, 'vm');
    if (changed > 0) await renew(round);
  }
  t.ok(leftovers > 0, `${leftovers} leftovers`);
  t.comment(`${ended} had ended, ${partly} had exchanged some and not all`);
  await compactVm(store, 'vm');
  await checkAll(t, store, hashes);
  t.same(
    (await readdir(store.checkpointsDirectory('vm'))).filter((name) => name.startsWith('.')),
    [],
  );
});

/** A VM that runs and has saved c0 to c3, of which c0 and c1 are removed; `take` saves another one. */
async function runningVm(t: Test): Promise<{
  store: Store;
  vm: Vm;
  hashes: Map<string, string>;
  take: (name: string) => Promise<void>;
}> {
  const { store, remove } = await temporaryStore();
  t.teardown(remove);
  const mib = 2 ** 20;
  // What the guest never writes: soon all that is still needed of the first checkpoint.
  const initrd = join(store.root, 'initrd');
  await writeFile(initrd, randomBytes(3 * mib));
  const config = bareConfig('random-writer', 'harts=2 mib=12', {
    ...{ name: 'vm', cpus: 2, memoryBytes: 32 * mib, initrd },
  });
  const { vm } = await boot(store, config);
  t.teardown(() => vm.close());
  const hashes = new Map<string, string>();
  const take = async (name: string): Promise<void> => {
    await vm.checkpoint({ name, wait: true }, { oracle: true });
    hashes.set(name, createHash('sha256').update(vm.oracle()).digest('hex'));
  };
  // Saved while it is paused, what the guest writes and what it does not share one segment.
  await setTimeout(500);
  await vm.pause();
  await take('c0');
  vm.resume();
  for (const name of names.slice(1, 4)) await take(name);
  for (const name of names.slice(0, 2)) {
    await removeCheckpoint(store, await findCheckpoint(store, `vm@${name}`));
    hashes.delete(name);
  }
  return { store, vm, hashes, take };
}

t.test('while the VM runs and goes on saving', async (t) => {
  const { store, vm, hashes, take } = await runningVm(t);
  // A save and a compaction at once, then a save on a base that has been exchanged.
  const [done] = await Promise.all([compactVm(store, 'vm'), take('c4')]);
  t.ok(done.rewritten > 0, `${done.rewritten} segments replaced`);
  await take('c5');
  const incremental = await readManifest(store.checkpointDirectory('vm', 'c5'));
  t.ok(incremental.parentId !== null && incremental.stats.blocks.parent > 0, 'c5 is an increment');
  await vm.close();
  await compactVm(store, 'vm');
  await checkAll(t, store, hashes);
  const restored = await Vm.restore(store, await findCheckpoint(store, 'vm@c5'), { lazy: true });
  t.equal(await sourceHash(restored.memory()), hashes.get('c5'), 'and restores');
  await restored.close();
});

t.test('by the VM itself, after its next checkpoint', async (t) => {
  const { store, vm, hashes, take } = await runningVm(t);
  const inode = async (): Promise<number> =>
    (await stat(store.checkpointDirectory('vm', 'c2'))).ino;
  const before = await inode();
  t.ok((await compactVm(store, 'vm', { dryRun: true })).rewritten > 0);
  await take('c4');
  const deadline = Date.now() + 60_000;
  while ((await inode()) === before && Date.now() < deadline) await setTimeout(20);
  t.not(await inode(), before, 'c2 has been exchanged');
  await vm.close(); // ends a compaction that still goes on
  await checkAll(t, store, hashes);
});

t.test('the command', async (t) => {
  const { store, hashes } = await storeWithChain(t, { seed: 8, blocks: 100 });
  const lines: string[] = [];
  const write = process.stdout.write.bind(process.stdout);
  const run = async (...words: string[]): Promise<void> => {
    process.stdout.write = (text: string | Uint8Array) => lines.push(String(text)) > 0;
    try {
      await buildProgram().parseAsync(['node', 'ckptfs', '--store', store.root, ...words]);
    } finally {
      process.stdout.write = write;
    }
  };
  await run('compact', 'vm', '--dry-run');
  t.match(lines.pop(), /^vm: \d+ of \d+ segments would be replaced in \d checkpoints; at least/);
  await run('compact', '--json');
  const result = JSON.parse(lines.pop() ?? '') as { type: string; freedBytes: number };
  t.match(result, { type: 'result', vm: 'vm', dryRun: false });
  t.ok(result.freedBytes > 0);
  await run('compact', 'vm');
  t.match(lines.pop(), /^vm: nothing to give back/);
  await checkAll(t, store, hashes);
});
