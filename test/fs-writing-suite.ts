/** What every transport has to do with writes, in a writable mount: see fs-suite.ts. */
import { mkdir, open, readdir, readFile, rename, rmdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { Test } from 'tap';
import type { TransportName } from '../src/fs/transport.js';
import { command, failure, logged, serve } from './fs-harness.js';
import { diskBytes, patternBytes } from './fs-view.js';

const [one, two] = ['one', 'two'].map((name) => `vms/alpha/checkpoints/${name}`) as [
  string,
  string,
];

export function writingSuite(t: Test, transport: TransportName): void {
  t.test('the disks of checkpoints take writes', async (t) => {
    const { directory, counts } = await serve(t, { transport, writable: true });
    const disk = join(directory, one, 'disks/vda');
    const expected = await readFile(disk);
    t.ok(expected.equals(patternBytes(11, 0, diskBytes)));
    const { mode, mtimeMs } = await stat(disk);
    t.equal(mode & 0o777, 0o644);

    const early = await open(disk);
    const handle = await open(disk, 'r+');
    const write = async (bytes: Buffer, position: number) => {
      t.equal((await handle.write(bytes, 0, bytes.length, position)).bytesWritten, bytes.length);
      bytes.copy(expected, position);
    };
    await write(patternBytes(50, 0, 5000), 4001);
    await write(patternBytes(51, 0, 400_000), 300_000);
    await write(patternBytes(52, 0, 700), diskBytes - 700);
    t.ok((await early.readFile()).equals(expected), 'a handle from before');
    t.ok((await readFile(disk)).equals(expected), 'a new one');
    t.ok(
      (await readFile(join(directory, two, 'disks/vda'))).equals(patternBytes(12, 0, diskBytes)),
    );
    t.ok((await stat(disk)).mtimeMs > mtimeMs, 'its time is that of the write');

    t.equal((await counts()).flushed, 0);
    await handle.sync();
    t.equal((await counts()).flushed, 1);
    await Promise.all([early.close(), handle.close()]);
    t.ok((await readFile(disk)).equals(expected), 'and when nobody has it open');
  });

  t.test('a disk keeps its size', async (t) => {
    const { directory, errors } = await serve(t, { transport, writable: true });
    const disk = join(directory, one, 'disks/vda');
    const handle = await open(disk, 'r+');
    const bytes = Buffer.alloc(512);
    for (const position of [diskBytes - 511, diskBytes, diskBytes + 2 ** 40]) {
      await t.rejects(handle.write(bytes, 0, 512, position), { code: 'EFBIG' }, String(position));
    }
    await t.rejects(handle.truncate(diskBytes + 1), { code: 'EFBIG' });
    await t.rejects(handle.truncate(diskBytes - 1), { code: 'EPERM' });
    await t.rejects(open(disk, 'w'), { code: 'EPERM' });
    await handle.truncate(diskBytes);
    await handle.close();
    t.equal((await stat(disk)).size, diskBytes);
    t.ok((await readFile(disk)).equals(patternBytes(11, 0, diskBytes)));
    t.same(errors, [], 'nothing to look into');
  });

  t.test('checkpoints come and go', async (t) => {
    const { directory, errors } = await serve(t, {
      transport,
      writable: true,
      requestLimitMs: 1500,
    });
    const checkpoints = join(directory, 'vms/alpha/checkpoints');
    const path = (name: string) => join(checkpoints, name);
    const listed = () => readdir(checkpoints);
    const errno = async (work: Promise<unknown>) =>
      work.then(
        () => 'none',
        (error: unknown) => (error as NodeJS.ErrnoException).code,
      );
    t.equal((await stat(checkpoints)).mode & 0o777, 0o755);
    t.equal((await stat(path('one'))).mode & 0o777, 0o555);
    t.same(await listed(), ['broken', 'latest', 'one', 'two']);
    await command('mkdir', path('three'));
    t.same(await listed(), ['broken', 'latest', 'one', 'three', 'two']);
    t.equal(await readFile(join(path('three'), 'manifest.json'), 'utf8'), '{"name":"three"}\n');
    t.equal(await readFile(join(path('latest'), 'manifest.json'), 'utf8'), '{"name":"three"}\n');

    t.equal(await errno(mkdir(path('three'))), 'EEXIST');
    t.equal(await errno(mkdir(path('latest'))), 'EEXIST');
    for (const name of ['.hidden', 'a b', 'x'.repeat(65)]) {
      t.equal(await errno(mkdir(path(name))), 'EINVAL', name);
    }
    t.equal(await errno(mkdir(path('x'.repeat(256)))), 'ENAMETOOLONG');
    t.equal(await errno(mkdir(path('full'))), 'ENOSPC');
    t.match(await failure('mkdir', path('down')), 'Host is down');
    t.same(await listed(), ['broken', 'latest', 'one', 'three', 'two'], 'nothing of those');
    await logged(t, errors, /checkpoints\/full: the filesystem is full \(ENOSPC\)/);
    await command('mkdir', path('late'));
    t.ok((await listed()).includes('late'), 'it may take longer than other requests');

    t.equal(await errno(rename(path('three'), path('four'))), 'EPERM');
    t.equal(await errno(rename(join(path('three'), 'image'), path('four'))), 'EROFS');
    t.equal(await errno(rmdir(path('latest'))), 'ENOTDIR');
    t.equal(await errno(rmdir(path('none'))), 'ENOENT');
    t.equal(await errno(rmdir(path('two'))), 'EBUSY');
    await logged(t, errors, /checkpoints\/two: VM beta still loads it \(EBUSY\)/);
    const held = await open(join(path('three'), 'memory'));
    await command('rmdir', path('three'), path('late'));
    t.same(await listed(), ['broken', 'latest', 'one', 'two']);
    t.equal(await errno(stat(path('three'))), 'ENOENT');
    t.same(await readdir(join(directory, 'by-time')), [
      '2026-11-20T10-15-01Z',
      '2026-11-20T10-15-02Z',
    ]);
    const byte = Buffer.alloc(1);
    const reading = held.read(byte, 0, 1, 4096);
    // libfuse 2 asks by path, and that is gone.
    if (transport === 'fuse-native') t.equal(await errno(reading), 'ENOENT');
    else t.same((await reading).buffer, patternBytes(3, 4096, 1), 'what is open stays readable');
    await held.close();
  });

  t.test('nothing else takes writes', async (t) => {
    const { directory, errors } = await serve(t, { transport, writable: true });
    const refused = /Read-only file system|Permission denied/; // the latter where not root
    const files = ['memory', 'manifest.json', 'image/memory.hot'];
    for (const file of [...files.map((name) => join(one, name)), 'vms/alpha/layers/vda/parent']) {
      const path = join(directory, file);
      await t.rejects(open(path, 'r+'), { code: /EROFS|EACCES/ }, file);
      t.match(await failure('truncate', '-s', '0', path), refused);
      t.equal((await stat(path)).mode & 0o777, 0o444);
    }
    const disk = join(directory, one, 'disks/vda');
    t.match(await failure('rm', '-f', disk), refused);
    t.match(await failure('mv', disk, `${disk}2`), refused);
    t.match(await failure('touch', join(directory, one, 'disks/vdb')), refused);
    for (const path of [
      'vms/beta',
      'vms/alpha/new',
      one + '/new',
      one + '/disks/new',
      'by-time/new',
    ]) {
      t.match(await failure('mkdir', join(directory, path)), refused, path);
    }
    for (const path of ['vms/alpha', 'vms/alpha/checkpoints', one + '/disks', one + '/image']) {
      t.match(await failure('rmdir', join(directory, path)), refused, path);
    }
    t.match(await failure('chmod', '666', disk), refused);
    t.same(errors, []);
    await t.rejects(open(join(directory, one, 'disks/bad'), 'r+'), { code: 'EIO' });
    await logged(t, errors, /checksum differs \(EIO\)/);
    t.equal(errors.length, 1, 'what cannot be made is told');
  });
}
