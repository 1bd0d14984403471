/** Verification of checkpoints: every kind of damage, progress, cancellation, many at once. */
import { appendFile, mkdir, rename, rm, symlink, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import t from 'tap';
import { listCheckpoints, openCheckpoint } from '../src/checkpoint/checkpoints.js';
import { expectedParent } from '../src/checkpoint/parent.js';
import { verifyCheckpoint } from '../src/checkpoint/verify.js';
import { verifyCheckpoints } from '../src/checkpoint/verify_all.js';
import { fakeNative, makeRedo, publish, storeWithVm } from './support/checkpoints.js';

const verify = (directory: string) => verifyCheckpoint(directory, { native: fakeNative });

t.test('verification names every kind of damage; opening refuses what it checks', async (t) => {
  const store = await storeWithVm(t);
  const cases: [string, (directory: string, id: string) => Promise<unknown>, string, boolean][] = [
    ['a missing segment', (d, id) => rm(join(d, `${id}.hot`)), '.hot', true],
    ['a short segment', (d, id) => truncate(join(d, `${id}.cold`), 10), '.cold', true],
    [
      'a changed segment',
      (d, id) => writeFile(join(d, `${id}.cold`), 'x'.repeat(74)),
      '.cold',
      false,
    ],
    ['a changed map', (d, id) => writeFile(join(d, 'memory.map'), `${id} mop`), 'memory.map', true],
    [
      'a changed state',
      (d) => writeFile(join(d, 'device-state.json'), '{"cpu":{}}'),
      'device-state.json',
      true,
    ],
    ['a grown redo log', (d) => appendFile(join(d, 'disks/vda/00000001.redo'), 'x'), '.redo', true],
    ['an extra file', (d) => writeFile(join(d, 'extra'), ''), 'extra', false],
    ['an extra directory', (d) => mkdir(join(d, 'disks/vdb')), 'disks/vdb', false],
    ['a symbolic link', (d) => symlink('/etc/passwd', join(d, 'link')), 'link', false],
    [
      'a file replaced by a link',
      async (d) => {
        await rename(join(d, 'memory.map'), join(d, '..', 'moved'));
        await symlink(join(d, '..', 'moved'), join(d, 'memory.map'));
      },
      'memory.map',
      true,
    ],
    ['a missing manifest', (d) => rm(join(d, 'manifest.json')), 'manifest.json', true],
    ['a changed manifest', (d) => appendFile(join(d, 'manifest.json'), ' '), 'manifest.json', true],
  ];
  for (const [what, damage, file, refused] of cases) {
    await rm(store.vmDirectory('vm1'), { recursive: true });
    await store.createVm('vm1');
    await makeRedo(store, 'vm1');
    const { id } = await publish(store, 'vm1', 'one');
    const directory = store.checkpointDirectory('vm1', 'one');
    t.same(await verify(directory), [], `${what}: whole before`);
    await damage(directory, id);
    const found = await verify(directory);
    t.ok(
      found.some((one) => one.file.endsWith(file)),
      `${what}: found`,
    );
    if (refused)
      await t.rejects(openCheckpoint(directory), { name: 'CkptError' }, `${what}: refused`);
    else await t.resolves(openCheckpoint(directory), `${what}: found when it is read`);
  }
});

t.test('the time of a parent within the checkpoint may be cut, as copies do', async (t) => {
  const then = { bytes: 4096, mtimeNs: '1700000000123456789' };
  const inside = { parent: 'disks/vda/00000000.raw', parentIdentity: then };
  for (const mtimeNs of [
    '1700000000123456789',
    '1700000000123456000',
    '1700000000123000000',
    '1700000000000000000',
  ]) {
    t.match(expectedParent(inside, { bytes: 4096, mtimeNs }), { mtimeNs }, mtimeNs);
  }
  for (const now of [
    { bytes: 4095, mtimeNs: then.mtimeNs },
    { bytes: 4096, mtimeNs: '1700000000123456788' },
    { bytes: 4096, mtimeNs: '1700000000124000000' },
    { bytes: 4096, mtimeNs: '1700000001000000000' },
  ]) {
    t.same(expectedParent(inside, now), then, `${now.bytes} bytes, ${now.mtimeNs}`);
  }
  const outside = { ...inside, parent: '/parent.img' };
  t.same(expectedParent(outside, { bytes: 4096, mtimeNs: '1700000000000000000' }), then);
});

t.test('verification looks at the parent, reports progress and can be cancelled', async (t) => {
  const store = await storeWithVm(t);
  await publish(store, 'vm1', 'one');
  const directory = store.checkpointDirectory('vm1', 'one');
  const changed = { ...fakeNative, fileIdentity: () => ({ bytes: 4096, mtimeNs: '2' }) };
  t.match(await verifyCheckpoint(directory, { native: changed }), [
    { file: '/parent.img', what: /changed/ },
  ]);
  const seen: number[] = [];
  let total = 0;
  await verifyCheckpoint(directory, {
    native: fakeNative,
    onProgress: (done, all) => {
      seen.push(done);
      total = all;
    },
  });
  t.same(
    seen,
    [...seen].sort((a, b) => a - b),
    'forward',
  );
  t.equal(seen.at(-1), total, 'to the end');
  await t.rejects(
    verifyCheckpoint(directory, { native: fakeNative, signal: AbortSignal.abort() }),
    {
      code: 'CANCELLED',
    },
  );
});

t.test('many are verified some at a time, and told in order', async (t) => {
  const store = await storeWithVm(t);
  const names = ['a', 'b', 'c', 'd', 'e'];
  for (const name of names) await publish(store, 'vm1', name);
  const entries = await listCheckpoints(store, 'vm1');
  await writeFile(join(store.checkpointDirectory('vm1', 'c'), 'extra'), '');
  await rm(store.checkpointDirectory('vm1', 'd'), { recursive: true });
  let atOnce = 0;
  let most = 0;
  const native = {
    ...fakeNative,
    async verifyMemoryImage(directory: string) {
      most = Math.max(most, ++atOnce);
      // The first one takes longest.
      await setTimeout(directory === entries[0]?.directory ? 60 : 5);
      atOnce--;
      return fakeNative.verifyMemoryImage(directory);
    },
  };
  const told: [string, number][] = [];
  const seen: number[] = [];
  let total = 0;
  await verifyCheckpoints(entries, ({ name }, damage) => told.push([name, damage.length]), {
    native,
    onProgress: (done, all) => {
      seen.push(done);
      total = all;
    },
  });
  const expected = entries.filter(({ name }) => name !== 'd');
  t.same(
    told,
    expected.map(({ name }) => [name, name === 'c' ? 1 : 0]),
    'one removed meanwhile is passed over',
  );
  t.equal(most, 2);
  t.ok(seen.every((done, i) => done >= (seen[i - 1] ?? 0) && done <= total));
  const signal = AbortSignal.abort();
  await t.rejects(
    verifyCheckpoints(entries, () => undefined, { native, signal }),
    { code: 'CANCELLED' },
  );
});
