/** The tree and its parts without a mount. */
import { constants } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { CkptError } from '../src/errors.js';
import { ErrorLog } from '../src/fs/error_log.js';
import { errnoName, FsError } from '../src/fs/errno.js';
import { InodeTable, rootInode } from '../src/fs/inode.js';
import { mountOptionsText, parseMountOptions, parseTransport } from '../src/fs/mount.js';
import { parseMountinfo } from '../src/fs/mounts.js';
import { SharedSources } from '../src/fs/source.js';
import { Tree } from '../src/fs/tree.js';
import { bufferSource, ValueNode } from '../src/fs/value.js';
import { temporary } from './fs-harness.js';
import type { SavingView } from '../src/fs/view.js';
import { makeStore, makeView } from './fs-view.js';

t.test('inode numbers', async (t) => {
  const table = new InodeTable();
  const numbers = Array.from({ length: 20_000 }, (_, i) => table.of(`vms/${i}`));
  t.equal(new Set(numbers).size, numbers.length);
  t.ok(numbers.every((number) => number > rootInode && number <= 0xffffffff));
  t.equal(new InodeTable().of('vms/7'), table.of('vms/7'), 'they do not depend on the order');
  t.equal(table.of(''), rootInode);

  const colliding = new InodeTable((_identity, salt) => salt);
  t.same(
    ['a', 'b', 'a', 'c'].map((identity) => colliding.of(identity)),
    [2, 3, 2, 4],
  );
});

t.test('shared sources', async (t) => {
  const sources = new SharedSources();
  let opened = 0;
  let closed = 0;
  const open = async () => {
    opened++;
    return {
      ...bufferSource(Buffer.from('x')),
      close: () => {
        closed++;
      },
    };
  };
  const [a, b] = await Promise.all([sources.acquire('k', open), sources.acquire('k', open)]);
  t.equal(a.source, b.source);
  a.release();
  a.release();
  t.same([opened, closed], [1, 0], 'a second release is none');
  b.release();
  t.same([opened, closed, sources.size], [1, 1, 0]);
  (await sources.acquire('k', open)).release();
  t.same([opened, closed], [2, 2], 'it opens anew');

  const fail = () => Promise.reject(new Error('no'));
  const failed = await Promise.allSettled([sources.acquire('k', fail), sources.acquire('k', fail)]);
  t.ok(failed.every(({ status }) => status === 'rejected'));
  t.equal(sources.size, 0, 'a failure is not kept');
});

t.test('errnos', async (t) => {
  const cases: [unknown, string][] = [
    [new CkptError('DAMAGED', ''), 'EIO'],
    [new CkptError('NOT_FOUND', ''), 'ENOENT'],
    [new CkptError('INTERNAL', ''), 'EIO'],
    [new FsError('ENOTDIR'), 'ENOTDIR'],
    [Object.assign(new Error(), { code: 'EACCES' }), 'EACCES'],
    [Object.assign(new Error(), { code: 'ERR_INVALID_ARG_TYPE' }), 'EIO'],
    [Object.assign(new Error(), { code: 'EUNHEARDOF' }), 'EIO'],
    ['a string', 'EIO'],
  ];
  for (const [error, name] of cases) t.equal(errnoName(error), name);
  t.equal(constants.errno.EIO, 5);
});

t.test('paths', async (t) => {
  const root = join(await temporary(t), 'store');
  await makeStore(root);
  const tree = new Tree(makeView(root, { live: true }));
  const errno = (path: string) => tree.stat(path).then(() => 'none', errnoName);
  t.equal(await errno('/'), 'none');
  t.equal(await errno('//vms///alpha/'), 'none');
  t.equal(await errno('/vms/alpha/checkpoints/one/image/disks/vda/00000001.redo'), 'none');
  t.equal(await errno('/vms/alpha/memory.elf'), 'ENOENT');
  t.equal(await errno('/vms/alpha/config.json/x'), 'ENOTDIR');
  t.equal(await errno('/vms/..'), 'ENOENT');
  t.equal(await errno('/vms/alpha/checkpoints/one/image/..'), 'ENOENT');
  t.equal(await errno('/vms/alpha/checkpoints/two/image/escape'), 'ENOENT', 'symbolic links');
  t.equal(await errno(`/${'x'.repeat(256)}`), 'ENAMETOOLONG');
  t.equal(await errno('/a'.repeat(10_000)), 'ENOENT');
  t.equal(await errno('/vms/alpha/checkpoints/broken'), 'none', 'it is there');
  t.equal(await errno('/vms/alpha/checkpoints/broken/memory'), 'EIO', 'but damaged');

  t.equal(await (await tree.node('/vms')).open().then(() => 'none', errnoName), 'EISDIR');
  t.equal(await (await tree.node('/vms')).target().then(() => 'none', errnoName), 'EINVAL');
  t.equal(
    await (await tree.node('/vms/alpha/memory')).list().then(() => 'none', errnoName),
    'ENOTDIR',
  );
  t.equal(
    await (await tree.node('/vms/alpha/checkpoints/latest')).open().then(() => 'none', errnoName),
    'ELOOP',
  );

  const entries = await tree.list('/vms/alpha');
  t.same(
    entries.slice(0, 2).map(({ name }) => name),
    ['.', '..'],
  );
  for (const { name, mode, inode } of entries.slice(2)) {
    t.match(await tree.stat(`/vms/alpha/${name}`), { mode, inode }, name);
  }
  t.equal((await tree.list('/')).find(({ name }) => name === '..')?.inode, rootInode);
});

t.test('a checkpoint that is being saved shows its memory, and then all of it', async (t) => {
  const root = join(await temporary(t), 'store');
  await makeStore(root);
  const begunAt = new Date('2026-11-20T10:15:00.250Z');
  const memory = { bytes: 5, open: () => Promise.resolve(bufferSource(Buffer.from('saved'))) };
  let saving: SavingView | undefined;
  const tree = new Tree(makeView(root, { live: true, saving: () => saving }));
  const errno = (path: string) => tree.stat(path).then(() => 'none', errnoName);
  const checkpoints = '/vms/alpha/checkpoints';
  const listed = async (path: string) => (await tree.list(path)).slice(2).map(({ name }) => name);
  t.equal(await errno(`${checkpoints}/three`), 'ENOENT');
  saving = { name: 'three', id: '3'.repeat(32), begunAt, memory };
  t.same(await listed(checkpoints), ['broken', 'latest', 'one', 'three', 'two']);
  t.same(await listed(`${checkpoints}/three`), ['memory']);
  t.match(await tree.stat(`${checkpoints}/three/memory`), { bytes: 5, timeMs: begunAt.getTime() });
  t.equal((await tree.node(`${checkpoints}/three`)).xattrs().get('user.ckptfs.id'), saving.id);
  t.equal(await (await tree.node(`${checkpoints}/latest`)).target(), 'two', 'not yet the newest');
  const { source } = await (await tree.node(`${checkpoints}/three/memory`)).open();
  const text = Buffer.alloc(5);
  await source.read(text, 0);
  t.equal(text.toString(), 'saved');
  saving = { ...saving, name: 'one' };
  t.same(await listed(checkpoints), ['broken', 'latest', 'one', 'two'], 'just published');
  t.ok((await listed(`${checkpoints}/one`)).includes('manifest.json'));
});

t.test('names of the store that cannot be names', async (t) => {
  const view = makeView('/');
  const odd = ['', '.', '..', 'a/b', 'a\0b', 'x'.repeat(256), 'fine'];
  const tree = new Tree({ ...view, vmNames: () => Promise.resolve(odd) });
  t.same(
    (await tree.list('/vms')).map(({ name }) => name),
    ['.', '..', 'fine'],
  );
});

t.test('checkpoints of one second', async (t) => {
  const view = makeView('/');
  const alpha = (await view.vm('alpha'))!;
  const createdAt = new Date('2026-11-20T10:15:00.400Z');
  const same = {
    ...alpha,
    outlines: async () => (await alpha.outlines()).map((outline) => ({ ...outline, createdAt })),
  };
  const tree = new Tree({ ...view, vm: () => Promise.resolve(same) });
  t.same(
    (await tree.list('/by-time')).slice(2).map(({ name }) => name),
    ['2026-11-20T10-15-00Z', '2026-11-20T10-15-00Z_alpha@two'],
  );
  t.equal(await (await tree.node('/vms/alpha/checkpoints/latest')).target(), 'two', 'by name then');
});

t.test('a status keeps its size while its numbers grow', async (t) => {
  let n = 1;
  const node = new ValueNode(() => Promise.resolve({ n: (n *= 1000) }));
  const { bytes } = await node.attributes();
  const { source } = await node.open();
  t.equal(source.bytes, bytes);
  const text = Buffer.alloc(bytes);
  t.equal(await source.read(text, 0), bytes);
  t.same(JSON.parse(text.toString()), { n });
  t.equal(text.at(-1), 0x0a);
  t.equal(await source.read(text, bytes), 0);
});

t.test('the log is bounded', async (t) => {
  const lines: string[] = [];
  let now = 0;
  const log = new ErrorLog(
    (line) => lines.push(line),
    () => now,
  );
  log.write('a\nb\x1b');
  log.write('a\nb\x1b');
  t.same(lines, ['a b '], 'one line, once');
  now = 59_999;
  log.write('a b ');
  now = 60_000;
  log.write('a b ');
  t.equal(lines.length, 2, 'and again after a minute');
  for (let i = 0; i < 5000; i++) log.write(`line ${i}`);
  t.equal(lines.length, 2 + 1000);
  t.match(lines.at(-1), /more failures/);
});

t.test('mountinfo', async (t) => {
  const text = [
    '42 27 0:39 / /tmp/a\\040b\\134c ro,nosuid - fuse.ckptfs ckptfs ro,user_id=0',
    '43 27 0:40 / /x rw shared:1 master:2 - ext4 /dev/sda rw',
    'nonsense',
    '',
  ].join('\n');
  t.same(parseMountinfo(text), [
    { id: 42, device: '0:39', directory: '/tmp/a b\\c', type: 'fuse.ckptfs' },
    { id: 43, device: '0:40', directory: '/x', type: 'ext4' },
  ]);
});

t.test('options', async (t) => {
  t.same(parseMountOptions('ro'), { allowOther: false, writable: false });
  t.same(parseMountOptions('ro,allow_other'), { allowOther: true, writable: false });
  t.same(parseMountOptions('rw'), { allowOther: false, writable: true });
  const kept = { allowOther: true, writable: true, overlay: '/a/b=c' };
  t.same(parseMountOptions('rw,overlay=/a/b=c,allow_other'), kept);
  t.same(parseMountOptions(mountOptionsText(kept)), kept);
  t.equal(parseMountOptions('rw,overlay=x').overlay, join(process.cwd(), 'x'));
  t.throws(() => parseMountOptions('overlay=/x'), { code: 'USAGE', message: /give rw too/ });
  t.throws(() => parseMountOptions('rw,overlay='), { code: 'USAGE', message: /unknown/ });
  t.throws(() => parseMountOptions('rw,ro'), { code: 'USAGE', message: /either ro or rw/ });
  const unknown = /unknown mount option suid; there are: allow_other, overlay=DIR, ro, rw/;
  t.throws(() => parseMountOptions('ro,suid'), { code: 'USAGE', message: unknown });
  t.equal(parseTransport('libfuse3'), 'libfuse3');
  t.throws(() => parseTransport('nfs'), { code: 'USAGE' });
});
