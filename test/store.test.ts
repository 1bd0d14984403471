/** The store: creation, names, lookup, publishing and removal of checkpoints. */
import { execFileSync, spawn } from 'node:child_process';
import {
  appendFile,
  link,
  mkdir,
  readdir,
  readFile,
  stat,
  symlink,
  writeFile,
} from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import t, { type Test } from 'tap';
import {
  diskLayers,
  findCheckpoint,
  freeTimeName,
  latestCheckpoint,
  listCheckpoints,
  openCheckpoint,
  removeCheckpoint,
} from '../src/checkpoint/checkpoints.js';
import { namesIn } from '../src/checkpoint/files.js';
import { defaultStorePath } from '../src/checkpoint/location.js';
import { checkName, isName, newId, parseReference, timeName } from '../src/checkpoint/names.js';
import { cleanOrders, cleanUnpublished, Publication } from '../src/checkpoint/publish.js';
import { Store } from '../src/checkpoint/store.js';
import { verifyCheckpoint } from '../src/checkpoint/verify.js';
import { draft, fakeNative, fill, publish, scratch, storeWithVm } from './support/checkpoints.js';

// Twenty processes are started and killed.
t.setTimeout(300_000);

/** A small filesystem in memory; gone with the test. */
function mountTmpfs(t: Test, directory: string, size: string): void {
  execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${size}`, 'ckptfs-test', directory]);
  t.teardown(() => execFileSync('umount', [directory]));
}

const needsMount = { skip: process.getuid?.() === 0 ? false : 'only root can mount a tmpfs' };

const verify = (directory: string) => verifyCheckpoint(directory, { native: fakeNative });

t.test('a store is made, found again, and nothing else is taken for one', async (t) => {
  const root = await scratch(t);
  const path = join(root, 'deep', 'store');
  await t.rejects(Store.open(path), { code: 'NOT_FOUND' });
  const store = await Store.open(path, { create: true });
  t.same(await store.listVms(), []);
  t.equal((await stat(path)).mode & 0o777, 0o700);
  t.equal((await Store.open(path)).root, path);
  t.equal((await Store.open(path, { create: true })).root, path);
  t.same(JSON.parse(await readFile(join(path, 'ckptfs.json'), 'utf8')), { format: 1 });

  await writeFile(join(root, 'mine.txt'), 'precious');
  await t.rejects(Store.open(root), { code: 'USAGE' });
  await t.rejects(Store.open(root, { create: true }), { code: 'USAGE' });
  t.same((await readdir(root)).sort(), ['deep', 'mine.txt'], 'nothing was put there');
  await t.rejects(Store.open(join(root, 'mine.txt'), { create: true }), { code: 'NOT_FOUND' });

  await writeFile(join(path, 'ckptfs.json'), '{"format":2}');
  await t.rejects(Store.open(path), { code: 'UNSUPPORTED' });
  await writeFile(join(path, 'ckptfs.json'), '{');
  await t.rejects(Store.open(path), { code: 'DAMAGED' });
  await writeFile(join(path, 'ckptfs.json'), '[]');
  await t.rejects(Store.open(path), { code: 'DAMAGED' });
  await writeFile(join(path, 'ckptfs.json'), ' '.repeat(10_000));
  await t.rejects(Store.open(path), { code: 'DAMAGED' });
});

t.test('a creation that was cut short is finished; many at once make one store', async (t) => {
  const root = join(await scratch(t), 'store');
  await mkdir(join(root, 'vms'), { recursive: true });
  await writeFile(join(root, 'ckptfs.json.new-00000001'), '{');
  await mkdir(join(root, 'lost+found'));
  await Promise.all(Array.from({ length: 4 }, () => Store.open(root, { create: true })));
  t.same(await (await Store.open(root)).listVms(), []);
});

t.test('where the store of a user is', async (t) => {
  t.equal(defaultStorePath({ CKPTFS_STORE: '/a/b', XDG_DATA_HOME: '/x' }), '/a/b');
  t.equal(defaultStorePath({ XDG_DATA_HOME: '/x' }), '/x/ckptfs');
  t.match(defaultStorePath({ XDG_DATA_HOME: 'x' }), /\/\.local\/share\/ckptfs$/);
  t.match(defaultStorePath({}), /\/\.local\/share\/ckptfs$/);
});

t.test('names', async (t) => {
  for (const name of ['a', 'vm1', '2026-11-20T10-15-00Z', 'A.b_c-d', 'x'.repeat(64), '0']) {
    t.ok(isName(name), name);
    t.equal(checkName('VM', name), name);
  }
  for (const name of [
    '',
    '.',
    '..',
    '.x',
    '-x',
    '_x',
    'a/b',
    'a b',
    'ü',
    'a\n',
    'latest',
    'x'.repeat(65),
    'a@b',
  ]) {
    t.notOk(isName(name), JSON.stringify(name));
    t.throws(() => checkName('checkpoint', name), { code: 'USAGE' });
  }
  t.ok(isName(timeName(new Date())));
  t.equal(timeName(new Date('2026-11-20T10:15:00.123Z')), '2026-11-20T10-15-00Z');
  t.match(newId(), /^[0-9a-f]{32}$/);
});

t.test('references', async (t) => {
  t.same(parseReference('vm@name'), { kind: 'name', vm: 'vm', name: 'name' });
  t.same(parseReference('vm@latest'), { kind: 'latest', vm: 'vm' });
  t.same(parseReference('ABCD'), { kind: 'id', prefix: 'abcd' });
  for (const text of [
    '',
    'abc',
    'vm',
    '@',
    'vm@',
    '@x',
    'a@b@c',
    'latest@x',
    'a'.repeat(33),
    'vm@../x',
    '../x@y',
  ]) {
    t.throws(() => parseReference(text), { code: 'USAGE' }, text);
  }
});

t.test('VMs', async (t) => {
  const store = await storeWithVm(t);
  await t.rejects(store.createVm('vm1'), { code: 'EXISTS', message: /--name/ });
  await t.rejects(store.createVm('../x'), { code: 'USAGE' });
  t.equal(await store.freeVmName(), 'vm2');
  await store.writeConfig('vm1', { memoryBytes: 1 });
  await store.writeConfig('vm1', { memoryBytes: 2 });
  t.same(await store.readConfig('vm1'), { memoryBytes: 2 });
  t.same((await readdir(store.vmDirectory('vm1'))).sort(), ['config.json', 'disks']);
  await t.rejects(store.readConfig('vm9'), { code: 'NOT_FOUND', message: /vm1/ });
  await t.rejects(store.needVm('vm9'), { code: 'NOT_FOUND' });
  await publish(store, 'vm1', 'one');
  await store.abandonVm('vm1');
  t.ok(await store.hasVm('vm1'), 'a VM with a checkpoint is not given up');
  await store.removeVm('vm1');
  t.same(await store.listVms(), []);
});

t.test('a published checkpoint is whole, private and linked', async (t) => {
  const store = await storeWithVm(t);
  const manifest = await publish(store, 'vm1', 'one');
  const directory = store.checkpointDirectory('vm1', 'one');
  t.same(
    new Set(await readdir(directory)),
    new Set([
      `${manifest.id}.cold`,
      `${manifest.id}.hot`,
      'device-state.json',
      'disks',
      'manifest.json',
      'memory.map',
    ]),
  );
  t.equal((await stat(directory)).mode & 0o777, 0o700);
  t.same(await readdir(store.checkpointsDirectory('vm1')), ['one'], 'nothing is left beside it');
  const checkpoint = await openCheckpoint(directory);
  t.same(checkpoint.manifest, manifest);
  t.equal(checkpoint.deviceState, '{"cpu":[]}');
  t.same(diskLayers(checkpoint, 'vda'), {
    parent: '/parent.img',
    parentIdentity: { bytes: 4096, mtimeNs: '1' },
    redo: [{ path: join(directory, 'disks/vda/00000001.redo'), bytes: 68 }],
  });
  t.throws(() => diskLayers(checkpoint, 'vdb'), { code: 'NOT_FOUND' });
  const [live, kept] = await Promise.all([
    stat(join(store.diskDirectory('vm1', 'vda'), '00000001.redo')),
    stat(join(directory, 'disks/vda/00000001.redo')),
  ]);
  t.equal(live.ino, kept.ino, 'a hard link');
  t.same(await verify(directory), []);
});

t.test('lookup by name, as latest, by id and by prefix', async (t) => {
  const store = await storeWithVm(t);
  const at = (second: number) => new Date(Date.UTC(2026, 0, 1, 0, 0, second)).toISOString();
  const newest = await publish(store, 'vm1', 'b', { createdAt: at(3) });
  const oldest = await publish(store, 'vm1', 'c', { createdAt: at(1) });
  await publish(store, 'vm1', 'a', { createdAt: at(2) });
  const names = (await listCheckpoints(store, 'vm1')).map((entry) => entry.name);
  t.same(names, ['c', 'a', 'b'], 'oldest first');
  t.equal((await latestCheckpoint(store, 'vm1'))?.name, 'b');
  const find = async (text: string) => (await findCheckpoint(store, text)).name;
  t.equal(await find('vm1@a'), 'a');
  t.equal(await find('vm1@latest'), 'b');
  t.equal(await find(newest.id), 'b');
  t.equal(await find(oldest.id.slice(0, 12).toUpperCase()), 'c');
  await t.rejects(findCheckpoint(store, 'vm1@x'), { code: 'NOT_FOUND', message: /a, b, c/ });
  await t.rejects(findCheckpoint(store, 'vm2@a'), { code: 'NOT_FOUND', message: /vm1/ });
  const unknown = newest.id.replaceAll(/./g, (digit) => (digit === '0' ? '1' : '0'));
  await t.rejects(findCheckpoint(store, unknown), { code: 'NOT_FOUND' });
  await store.createVm('empty');
  await t.rejects(findCheckpoint(store, 'empty@latest'), { code: 'NOT_FOUND', message: /none/ });
});

t.test('two checkpoints of one second get two names', async (t) => {
  const store = await storeWithVm(t);
  const time = new Date('2026-11-20T10:15:00Z');
  for (const name of ['2026-11-20T10-15-00Z', '2026-11-20T10-15-00Z-2']) {
    t.equal(await freeTimeName(store, 'vm1', time), name);
    await publish(store, 'vm1', name);
  }
});

t.test('a prefix that fits several is refused with the candidates', async (t) => {
  const store = await storeWithVm(t);
  const manifest = await publish(store, 'vm1', 'one');
  // The same checkpoint under another name, as a copy of its directory makes it.
  const [one, two] = ['one', 'two'].map((name) => store.checkpointDirectory('vm1', name)) as [
    string,
    string,
  ];
  await mkdir(two);
  await link(join(one, 'manifest.json'), join(two, 'manifest.json'));
  await t.rejects(findCheckpoint(store, manifest.id.slice(0, 4)), {
    code: 'USAGE',
    data: { candidates: ['vm1@one', 'vm1@two'] },
  });
});

t.test('a damaged checkpoint is listed as such and is never latest', async (t) => {
  const store = await storeWithVm(t);
  await publish(store, 'vm1', 'good', { createdAt: '2026-01-01T00:00:00.000Z' });
  await publish(store, 'vm1', 'bad', { createdAt: '2026-01-02T00:00:00.000Z' });
  await appendFile(join(store.checkpointDirectory('vm1', 'bad'), 'manifest.json'), ' ');
  await mkdir(store.checkpointDirectory('vm1', 'empty'));
  const entries = await listCheckpoints(store, 'vm1');
  t.equal(entries.length, 3);
  t.equal(entries.find(({ name }) => name === 'bad')?.damage?.code, 'DAMAGED');
  t.equal(entries.find(({ name }) => name === 'empty')?.damage?.code, 'NOT_FOUND');
  t.equal((await latestCheckpoint(store, 'vm1'))?.name, 'good');
  t.ok((await findCheckpoint(store, 'vm1@bad')).damage);
});

t.test('removal', async (t) => {
  const store = await storeWithVm(t);
  const { id } = await publish(store, 'vm1', 'one');
  await removeCheckpoint(store, await findCheckpoint(store, id));
  t.same(await readdir(store.checkpointsDirectory('vm1')), []);
  t.ok(await stat(join(store.diskDirectory('vm1', 'vda'), '00000001.redo')), 'the live log stays');
  await t.rejects(findCheckpoint(store, id), { code: 'NOT_FOUND' });
});

t.test('what was learnt of a checkpoint goes with it', async (t) => {
  const store = await storeWithVm(t);
  await mkdir(store.ordersDirectory('vm1'));
  const [one, two] = [await publish(store, 'vm1', 'one'), await publish(store, 'vm1', 'two')];
  for (const { id } of [one, two]) await writeFile(store.orderFile('vm1', id), 'order');
  await writeFile(`${store.orderFile('vm1', two.id)}.new-0123abcd`, 'half');
  await removeCheckpoint(store, await findCheckpoint(store, 'vm1@one'));
  t.notOk((await readdir(store.ordersDirectory('vm1'))).includes(`${one.id}.order`));
  // Written by a restore that was still loading when its checkpoint was removed.
  await writeFile(store.orderFile('vm1', one.id), 'late');
  await cleanOrders(store, 'vm1');
  t.same(await readdir(store.ordersDirectory('vm1')), [`${two.id}.order`]);
});

t.test('a name that is taken is refused at both ends, and stays as it was', async (t) => {
  const store = await storeWithVm(t);
  const first = await Publication.begin(store, 'vm1', 'one');
  await fill(first);
  await first.link(
    join(store.diskDirectory('vm1', 'vda'), '00000001.redo'),
    'disks/vda/00000001.redo',
  );
  const winner = await publish(store, 'vm1', 'one');
  await t.rejects(first.commit(draft(first)), { code: 'EXISTS', message: /vm1@one/ });
  await t.rejects(Publication.begin(store, 'vm1', 'one'), { code: 'EXISTS' });
  t.same(await readdir(store.checkpointsDirectory('vm1')), ['one']);
  t.equal((await findCheckpoint(store, 'vm1@one')).manifest?.id, winner.id);
  t.same(await verify(store.checkpointDirectory('vm1', 'one')), []);
});

t.test('what is not fit to be published leaves nothing behind', async (t) => {
  const store = await storeWithVm(t);
  const wrong = await Publication.begin(store, 'vm1', 'one');
  await fill(wrong);
  await t.rejects(wrong.commit({ ...draft(wrong), id: newId() }), /another checkpoint/);
  const short = await Publication.begin(store, 'vm1', 'one');
  await short.write('device-state.json', '{}');
  await t.rejects(short.commit(draft(short)));
  const strange = await Publication.begin(store, 'vm1', 'one');
  await fill(strange);
  await symlink('/etc/passwd', join(strange.directory, 'link'));
  await t.rejects(strange.commit(draft(strange)), /not a file/);
  const missing = await Publication.begin(store, 'vm1', 'one');
  await t.rejects(missing.link('/nonexistent/x', 'x'), { code: 'NOT_FOUND' });
  await missing.abandon();
  await missing.abandon();
  t.same(await readdir(store.checkpointsDirectory('vm1')), []);
});

t.test('leftovers are cleared, published checkpoints are not', async (t) => {
  const store = await storeWithVm(t);
  t.equal(await cleanUnpublished(store, 'vm1'), 0);
  await publish(store, 'vm1', 'one');
  await fill(await Publication.begin(store, 'vm1', 'two'));
  await Publication.begin(store, 'vm1', 'three');
  await writeFile(`${store.configFile('vm1')}.new-0123abcd`, 'half');
  t.equal(await cleanUnpublished(store, 'vm1'), 3);
  t.same((await readdir(store.vmDirectory('vm1'))).sort(), ['checkpoints', 'disks']);
  t.same(await readdir(store.checkpointsDirectory('vm1')), ['one']);
});

t.test('a full filesystem: NO_SPACE, nothing left, the rest untouched', needsMount, async (t) => {
  const root = await scratch(t);
  mountTmpfs(t, root, '256k');
  const store = await storeWithVm(t, root);
  await publish(store, 'vm1', 'one');
  const publication = await Publication.begin(store, 'vm1', 'two');
  await fill(publication);
  await publication.link(
    join(store.diskDirectory('vm1', 'vda'), '00000001.redo'),
    'disks/vda/00000001.redo',
  );
  // The very last block goes to this, so that it is the manifest that finds no room.
  await t.rejects(writeFile(join(root, 'hog'), Buffer.alloc(1 << 20)), { code: 'ENOSPC' });
  await t.rejects(publication.commit(draft(publication)), { code: 'NO_SPACE' });
  t.same(await readdir(store.checkpointsDirectory('vm1')), ['one']);
  const second = await Publication.begin(store, 'vm1', 'three');
  await t.rejects(second.write('memory.map', Buffer.alloc(1 << 20)), { code: 'NO_SPACE' });
  await second.abandon();
  await t.rejects(store.writeConfig('vm1', { text: 'x'.repeat(1 << 20) }), { code: 'NO_SPACE' });
  t.same((await readdir(store.vmDirectory('vm1'))).sort(), ['checkpoints', 'disks']);
  t.same(await verify(store.checkpointDirectory('vm1', 'one')), []);
});

t.test('a store on another filesystem than the redo log copies it', needsMount, async (t) => {
  const root = await scratch(t);
  mountTmpfs(t, root, '1m');
  const source = join(await scratch(t), 'log');
  await writeFile(source, 'contents');
  const store = await storeWithVm(t, root);
  const publication = await Publication.begin(store, 'vm1', 'one');
  await publication.link(source, 'disks/vda/1.redo');
  t.equal(await readFile(join(publication.directory, 'disks/vda/1.redo'), 'utf8'), 'contents');
});

t.test(
  'SIGKILL at random moments of publishing and removing: old or new, never half',
  async (t) => {
    const rounds = 20;
    const store = await storeWithVm(t);
    const publisher = fileURLToPath(new URL('support/publisher.js', import.meta.url));
    let published = 0;
    for (let round = 0; round < rounds; round++) {
      const child = spawn(process.execPath, [publisher, store.root, 'vm1', `r${round}`], {
        stdio: ['ignore', 'pipe', 'inherit'],
      });
      const ended = new Promise((resolve) => child.once('exit', resolve));
      await new Promise((resolve, reject) => {
        child.stdout.once('data', resolve);
        child.once('exit', () => reject(new Error('the publisher ended by itself')));
      });
      // Later rounds get further, however slow the machine is.
      await setTimeout(Math.random() * 20 * (round + 1));
      child.kill('SIGKILL');
      await ended;
      const entries = await listCheckpoints(store, 'vm1');
      t.same(
        entries.filter((entry) => entry.damage),
        [],
        `round ${round}: every manifest reads`,
      );
      for (const entry of entries) t.same(await verify(entry.directory), [], entry.name);
      await cleanUnpublished(store, 'vm1');
      // It may have been killed before it made the directory.
      const left = await namesIn(store.checkpointsDirectory('vm1'));
      t.same(left, entries.map(({ name }) => name).sort(), `round ${round}: nothing else is left`);
      published += entries.length;
      for (const entry of entries) await removeCheckpoint(store, entry);
    }
    t.ok(published > 0, `${published} checkpoints were published in all`);
  },
);
