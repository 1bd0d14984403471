/** What differs between two checkpoints of a VM with a disk. */
import { copyFile, mkdir, readdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import t from 'tap';
import { findCheckpoint } from '../src/checkpoint/checkpoints.js';
import { diffCheckpoints } from '../src/checkpoint/diff.js';
import { bareConfig, boot, temporaryDirectory, temporaryStore } from './support/guests.js';

t.test('layers that only one of the two has; copies count as the same', async (t) => {
  const { store, remove } = await temporaryStore();
  t.teardown(remove);
  const scratch = await temporaryDirectory();
  t.teardown(scratch.remove);
  const disk = join(scratch.path, 'disk.img');
  await writeFile(disk, Buffer.alloc(1 << 20, 1));
  const config = bareConfig('random-writer', 'mib=1', { name: 'vm', disks: [{ path: disk }] });
  const { vm, watch } = await boot(store, config);
  t.teardown(() => vm.close());
  await watch.printed(/random-writer/);
  const directories = [];
  for (const name of ['one', 'two']) {
    await vm.checkpoint({ name });
    directories.push((await findCheckpoint(store, `vm@${name}`)).directory);
  }
  await vm.close();
  const [one = '', two = ''] = directories;
  const { disks, memory } = await diffCheckpoints(one, two);
  t.match(disks, [
    {
      id: 'vda',
      state: 'changed',
      sameParent: true,
      onlyBefore: [],
      onlyAfter: [{ file: '00000002.redo', bytes: Number }],
    },
  ]);
  t.ok(memory.changedBlocks <= memory.blocks);
  t.match((await diffCheckpoints(two, one)).disks, [{ onlyBefore: [{}], onlyAfter: [] }]);
  t.match((await diffCheckpoints(one, one)).disks, [{ state: 'same' }]);

  // A copy on another filesystem has the same contents in other inodes.
  const copy = join(scratch.path, 'copy');
  for (const path of await readdir(one, { recursive: true, withFileTypes: true })) {
    if (!path.isFile()) continue;
    const from = join(path.parentPath, path.name);
    const to = join(copy, from.slice(one.length));
    await mkdir(join(to, '..'), { recursive: true });
    await copyFile(from, to);
  }
  t.match(await diffCheckpoints(one, copy), {
    memory: { changedBlocks: 0 },
    disks: [{ state: 'same' }],
  });
  await rm(join(copy, 'memory.map'));
  await t.rejects(diffCheckpoints(one, copy), { code: 'DAMAGED' });
});
