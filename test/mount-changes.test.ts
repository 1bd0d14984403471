/**
 * A mounted store whose checkpoints are taken, removed, taken again and compacted by other processes: every
 * transport shows what is there, and never what was there before under the same name.
 */
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { createReadStream } from 'node:fs';
import { open, readdir, readFile, readlink, stat } from 'node:fs/promises';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { findCheckpoint, removeCheckpoint } from '../src/checkpoint/checkpoints.js';
import { compactVm } from '../src/checkpoint/compact.js';
import { errnoOf } from '../src/errors.js';
import { transportNames } from '../src/fs/transport.js';
import { command, eventually, failure, noFuse, temporary } from './fs-harness.js';
import { publishChain } from './support/chains.js';
import { mountStore, withStore } from './support/cli.js';

// The program that writes the chains may have to be built.
t.setTimeout(900_000);
const skip = noFuse();
const blocks = 96;
const memoryBytes = blocks * 8 * 4096;

async function fileHash(path: string): Promise<string> {
  const hash = createHash('sha256');
  const stream = createReadStream(path, { highWaterMark: 1 << 20 });
  stream.on('data', (piece) => hash.update(piece));
  await once(stream, 'end');
  return hash.digest('hex');
}

async function mounted(t: Test, transport: string, names = ['one', 'two']) {
  const cli = await withStore(t);
  const { store } = cli;
  await store.createVm('vm');
  const hashes = await publishChain(store, 'vm', names, { seed: 1, blocks });
  const mount = await mountStore(t, cli, '--transport', transport);
  const directory = join(mount, 'vms/vm/checkpoints');
  const removed = async (name: string) =>
    removeCheckpoint(store, await findCheckpoint(store, `vm@${name}`));
  return { store, hashes, mount, directory, removed };
}

for (const transport of transportNames) {
  t.test(transport, { skip }, async (t) => {
    await t.test('taken, removed and taken again', async (t) => {
      const { store, hashes, directory, removed } = await mounted(t, transport);
      const memory = (name: string) => join(directory, name, 'memory');
      t.equal(await fileHash(memory('one')), hashes.get('one'));
      t.equal(await fileHash(memory('two')), hashes.get('two'));

      const more = await publishChain(store, 'vm', ['three'], { seed: 2, blocks });
      t.same(await readdir(directory), ['latest', 'one', 'three', 'two']);
      t.equal(await fileHash(memory('three')), more.get('three'), 'a new one is there at once');
      t.equal(await readlink(join(directory, 'latest')), 'three');

      const reader = await open(memory('two'));
      await removed('two');
      t.same(await readdir(directory), ['latest', 'one', 'three']);
      await eventually(t, 'a removed one is gone', () =>
        stat(memory('two')).then(
          () => false, // fuse-native keeps its name for a second
          (error: unknown) => errnoOf(error) === 'ENOENT',
        ),
      );
      const bytes = Buffer.alloc(memoryBytes);
      for (let done = 0; done < bytes.length;) {
        const { bytesRead } = await reader.read(bytes, done, bytes.length - done, done);
        done += bytesRead || bytes.length;
      }
      const hash = createHash('sha256').update(bytes);
      await reader.close();
      t.equal(hash.digest('hex'), hashes.get('two'), 'but for who has it open');

      const again = await publishChain(store, 'vm', ['two'], { seed: 3, blocks });
      t.not(again.get('two'), hashes.get('two'));
      t.equal(await fileHash(memory('two')), again.get('two'), 'the next one of that name');
    });

    await t.test('compacted', async (t) => {
      const names = ['c0', 'c1', 'c2', 'c3', 'c4'];
      const { store, hashes, directory, removed } = await mounted(t, transport, names);
      const manifest = join(directory, 'c4/manifest.json');
      const stored = join(store.checkpointDirectory('vm', 'c4'), 'manifest.json');
      const before = await readFile(manifest, 'utf8');
      for (const name of names.slice(0, 3)) await removed(name);
      await compactVm(store, 'vm');
      const after = await readFile(stored, 'utf8');
      t.not(after, before);
      await eventually(
        t,
        'the manifest is the new one',
        async () => (await readFile(manifest, 'utf8')) === after,
      );
      t.equal(await fileHash(join(directory, 'c4/memory')), hashes.get('c4'));
      await command(
        'diff',
        '-r',
        join(directory, 'c4/image'),
        store.checkpointDirectory('vm', 'c4'),
      );
    });

    await t.test('zeros are holes', async (t) => {
      const { hashes, directory } = await mounted(t, transport);
      const memory = join(directory, 'one/memory');
      const { size, blocks: stored } = await stat(memory);
      t.equal(size, memoryBytes);
      t.ok(stored * 512 < size && stored > 0, 'st_blocks leaves them out');
      const copy = join(await temporary(t), 'copy');
      await command('cp', '--sparse=auto', memory, copy);
      t.equal(await fileHash(copy), hashes.get('one'));
      if (transport === 'libfuse3') t.equal((await stat(copy)).blocks, stored, 'and so does cp');
    });

    await t.test('a VM that goes', async (t) => {
      const { store, mount, directory } = await mounted(t, transport);
      await stat(join(directory, 'one/memory'));
      await command('rm', '-r', store.vmDirectory('vm'));
      t.same(await readdir(join(mount, 'vms')), []);
      await eventually(t, 'it is gone', async () =>
        (await failure('ls', directory)).includes('No such file'),
      );
      await store.createVm('vm');
      t.same(await readdir(join(mount, 'vms')), ['vm']);
      const { size } = await publishChain(store, 'vm', ['new'], { seed: 4, blocks });
      t.equal(size, 1);
      t.same(await readdir(directory), ['latest', 'new']);
      t.equal((await stat(join(directory, 'new/memory'))).size, memoryBytes);
    });
  });
}
