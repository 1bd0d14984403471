/**
 * Restores and saves under way, seen from the command line: a limit, a source that fails and comes back, the
 * order that is learnt, and the memory of a checkpoint that is read from the mount while it is being saved.
 */
import { randomBytes } from 'node:crypto';
import { mkdir, open, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import t from 'tap';
import { findCheckpoint } from '../src/checkpoint/checkpoints.js';
import type { Store } from '../src/checkpoint/store.js';
import type { VmStatus } from '../src/types.js';
import { noFuse } from './fs-harness.js';
import { endless, run, withStore } from './support/cli.js';
import { until } from './support/guests.js';

t.setTimeout(300_000);

const untouchedMib = 4;

/** An initrd that the guest never touches: it is left to the background, which keeps to a limit. */
async function untouched(store: Store): Promise<string> {
  const path = join(store.root, '..', 'initrd');
  await writeFile(path, randomBytes(untouchedMib * 2 ** 20));
  return path;
}

t.test('a limit, a source that fails and comes back, an order that is learnt', async (t) => {
  const { store, ckptfs } = await withStore(t);
  const json = async (...args: string[]) => (await ckptfs(...args, '--json')).objects.at(-1);
  const info = async (vm: string) => (await json('info', vm)) as unknown as VmStatus;
  const initrd = await untouched(store);
  await ckptfs(...run('random-writer', 'mib=4'), '--initrd', initrd, '--name', 'w', '--detach');
  await until('written memory', async () => (await info('w')).instructions > 20_000_000);
  const saved = await json('checkpoint', 'w', '--name', 'one', '--suspend', '--compress', 'none');
  t.match(saved, { state: 'published' });
  await ckptfs('stop', 'w');

  // The background loads a megabyte a second; meanwhile the bytes of every segment are replaced.
  const { directory } = await findCheckpoint(store, 'w@one');
  const segments = (await readdir(directory)).filter((name) => /\.(hot|cold)$/.test(name));
  const kept = new Map<string, Buffer>();
  for (const name of segments) kept.set(name, await readFile(join(directory, name)));
  const overwrite = async (name: string, bytes: Buffer): Promise<void> => {
    const file = await open(join(directory, name), 'r+'); // in place: the VM has it open
    await file.write(bytes, 0, bytes.length, 0);
    await file.close();
  };
  const begun = performance.now();
  const restored = ['restore', 'w@one', '--name', 'w2', '--detach', '--no-wait', '--limit', '1M/s'];
  t.match(await json(...restored), { vm: 'w2' });
  for (const [name, bytes] of kept) {
    const damaged = Buffer.from(bytes);
    damaged.fill(0xa5, 4096, bytes.length - 4096);
    await overwrite(name, damaged);
  }
  await until('a failure', async () => (await info('w2')).state === 'failed');
  const failed = await info('w2');
  t.match(failed.error, /not an IO block|checksum/);
  t.equal(failed.restore?.done, false);
  t.equal((await ckptfs('retry', 'w2')).status, 0, 'it can be tried');
  await until('another failure', async () => (await info('w2')).state === 'failed');
  const { instructions } = await info('w2');

  for (const [name, bytes] of kept) await overwrite(name, bytes);
  t.match(await json('retry', 'w2'), { vm: 'w2', state: 'running' });
  await until('instructions', async () => (await info('w2')).instructions > instructions);
  await until('all of memory', async () => (await info('w2')).restore?.done === true);
  const seconds = (performance.now() - begun) / 1000;
  t.match((await info('w2')).restore, { blocks: { demand: Number, prefetched: Number } });
  t.ok(seconds > untouchedMib - 1, `${seconds} s for what the guest did not ask for`);

  // What this restore has learnt is there for the next one.
  t.match(await readdir(store.ordersDirectory('w')), [`${String(saved?.id)}.order`]);
  t.match(await json('restore', 'w@one', '--name', 'w3', '--detach'), { vm: 'w3' });
});

t.test('a checkpoint is read from the mount while it is saved', { skip: noFuse() }, async (t) => {
  const { store, ckptfs } = await withStore(t);
  const json = async (...args: string[]) => (await ckptfs(...args, '--json')).objects.at(-1);
  const mount = join(store.root, '..', 'mnt');
  await mkdir(mount);
  const initrd = await untouched(store);
  await ckptfs(...endless, '--name', 'w', '--initrd', initrd, '--detach', '--mount', mount);
  const slow = ['checkpoint', 'w', '--name', 'slow', '--no-wait', '--limit', '500K/s'];
  t.match(await json(...slow), { name: 'slow', state: 'saving' });
  const memory = join(mount, 'vms', 'w', 'checkpoints', 'slow', 'memory');
  const early = await readFile(memory);
  t.match(await json('info', 'w'), { save: { name: 'slow' } }, 'it is still being saved');
  await until('the checkpoint', async () => (await ckptfs('show', 'w@slow')).status === 0);
  t.ok(early.equals(await readFile(memory)), 'it had been complete from the pause on');
  const file = join(store.root, '..', 'ram');
  await ckptfs('export', 'w@slow', '-o', file);
  t.ok(early.equals(await readFile(file)));
  t.equal((await ckptfs('stop', 'w')).status, 0);
});
