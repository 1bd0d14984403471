/**
 * What every transport has to do, seen with ordinary tools by another process than the one that serves.
 * Every test has a mount of its own.
 */
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import {
  appendFile,
  lstat,
  mkdir,
  open,
  readFile,
  readdir,
  readlink,
  rm,
  stat,
} from 'node:fs/promises';
import { join } from 'node:path';
import type { Test } from 'tap';
import { mountOn, unmountPath } from '../src/fs/mounts.js';
import type { TransportName } from '../src/fs/transport.js';
import { command, eventually, failure, logged, serve, temporary } from './fs-harness.js';
import { damageStart, diskBytes, memoryBytes, patternBytes, segment } from './fs-view.js';

const one = 'vms/alpha/checkpoints/one';

function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}

export function suite(t: Test, transport: TransportName): void {
  t.test('names, kinds and attributes', async (t) => {
    const { directory, store } = await serve(t, { transport });
    t.same(await readdir(directory), ['by-time', 'vms']);
    t.same(await readdir(join(directory, 'vms/alpha')), [
      'checkpoints',
      'config.json',
      'console.log',
      'layers',
      'status.json',
    ]);
    t.same(await readdir(join(directory, one)), [
      'device-state.json',
      'disks',
      'image',
      'manifest.json',
      'memory',
      'memory.elf',
    ]);
    t.match(
      await command('ls', '-la', join(directory, one)),
      /-r--r--r--.* 4194304 Nov 20 .*memory\n/,
    );

    const memory = await stat(join(directory, one, 'memory'));
    t.equal(memory.size, memoryBytes);
    t.equal(memory.blocks, memoryBytes / 512);
    t.equal(memory.nlink, 1);
    t.equal(memory.uid, process.getuid?.());
    t.equal(memory.mtime.toISOString(), '2026-11-20T10:15:01.250Z');
    t.equal(memory.ctime.toISOString(), '2026-11-20T10:15:01.250Z');
    t.equal((await stat(join(directory, one, 'disks/vda'))).blocks, diskBytes / 512);

    const shown = await stat(join(directory, one, 'image/memory.hot'));
    const stored = await stat(join(store, one, 'memory.hot'));
    t.equal(shown.blocks, stored.blocks);
    t.equal(shown.nlink, 2);
    const linked = await stat(join(directory, 'vms/alpha/checkpoints/two/image/memory.hot'));
    t.equal(linked.ino, shown.ino, 'a hard link stays one');

    const listed = await command('ls', '-i', join(directory, one));
    t.match(listed, `${memory.ino} memory`, 'readdir and stat agree on the inode');
    t.match(
      await command('find', join(directory, one), '-name', 'vda', '-type', 'f'),
      /disks\/vda/,
    );
  });

  t.test('links', async (t) => {
    const { directory } = await serve(t, { transport });
    t.equal(await readlink(join(directory, 'vms/alpha/checkpoints/latest')), 'two');
    const time = '2026-11-20T10-15-01Z';
    t.same(await readdir(join(directory, 'by-time')), [time, '2026-11-20T10-15-02Z']);
    t.equal(await readlink(join(directory, 'by-time', time)), `../${one}`);
    t.equal(
      await readFile(join(directory, 'by-time', time, 'manifest.json'), 'utf8'),
      '{"name":"one"}\n',
    );
    t.equal(
      await readFile(join(directory, 'vms/alpha/checkpoints/latest/manifest.json'), 'utf8'),
      '{"name":"two"}\n',
    );
  });

  t.test('inode numbers are those of the next mount too', async (t) => {
    const first = await serve(t, { transport });
    const inodes = async (directory: string, path = ''): Promise<string[]> => {
      const lines = [];
      for (const entry of await readdir(join(directory, path), { withFileTypes: true })) {
        if (entry.name === 'broken') continue;
        const child = join(path, entry.name);
        lines.push(`${child} ${(await lstat(join(directory, child))).ino}`);
        if (entry.isDirectory()) lines.push(...(await inodes(directory, child)));
      }
      return lines;
    };
    const before = await inodes(first.directory);
    const base = await temporary(t);
    await mkdir(join(base, 'again'));
    const second = await serve(t, {
      transport,
      store: first.store,
      directory: join(base, 'again'),
    });
    const after = await inodes(second.directory);
    t.same(after, before);
    t.equal(
      new Set(after.map((line) => line.split(' ')[1])).size,
      after.length - 1,
      'one is linked',
    );
  });

  t.test('bytes, by cp, cmp, sha256sum, dd and tar', async (t) => {
    const { directory, store } = await serve(t, { transport });
    const base = await temporary(t);
    const memory = join(directory, one, 'memory');
    const expected = patternBytes(1, 0, memoryBytes);
    t.match(await command('sha256sum', memory), sha256(expected));
    await command('cp', memory, join(base, 'copy'));
    t.ok((await readFile(join(base, 'copy'))).equals(expected));
    await command('cmp', memory, join(base, 'copy'));
    await command('cp', join(directory, one, 'disks/vda'), join(base, 'vda'));
    t.ok((await readFile(join(base, 'vda'))).equals(patternBytes(11, 0, diskBytes)));

    const offsets = [0, 1, 4095, 131_071, 131_072, memoryBytes - 3, memoryBytes];
    for (const offset of offsets) {
      const piece = join(base, 'piece');
      await command(
        'dd',
        `if=${memory}`,
        `of=${piece}`,
        'bs=10000',
        'count=1',
        'iflag=skip_bytes',
        `skip=${offset}`,
      );
      t.ok(
        (await readFile(piece)).equals(expected.subarray(offset, offset + 10_000)),
        `at ${offset}`,
      );
    }

    await command('tar', '-C', directory, '-cf', join(base, 'image.tar'), `${one}/image`);
    await command('tar', '-C', base, '-xf', join(base, 'image.tar'));
    await command('diff', '-r', join(base, one, 'image'), join(store, one));
    t.ok((await readFile(join(base, one, 'image/memory.hot'))).equals(segment));
  });

  t.test('eight readers at once share a source', async (t) => {
    const { directory, counts } = await serve(t, { transport });
    const memory = join(directory, one, 'memory');
    const expected = sha256(patternBytes(1, 0, memoryBytes));
    const sums = await Promise.all(Array.from({ length: 8 }, () => command('sha256sum', memory)));
    for (const sum of sums) t.match(sum, expected);
    await eventually(t, 'all sources are closed', async () => {
      const { opened, closed } = await counts();
      return opened > 0 && opened <= 8 && opened === closed;
    });
    const handles = await Promise.all(Array.from({ length: 5 }, () => open(memory)));
    const before = await counts();
    t.equal(before.opened - before.closed, 1, 'five handles share one source');
    for (const handle of handles) await handle.close();
    await eventually(t, 'the source is closed', async () => {
      const { opened, closed } = await counts();
      return opened === before.opened && opened === closed;
    });
  });

  t.test('what does not exist or is damaged', async (t) => {
    const { directory, errors } = await serve(t, { transport, requestLimitMs: 1500 });
    t.match(await failure('cat', join(directory, 'nothing')), 'No such file');
    t.match(await failure('cat', join(directory, 'vms/beta/memory')), 'No such file');
    t.match(await failure('cat', join(directory, one, 'memory/x')), 'Not a directory');
    t.match(await failure('cat', join(directory, one)), 'Is a directory');
    t.match(await failure('cat', join(directory, 'vms', 'x'.repeat(300))), 'File name too long');
    t.match(
      await failure('cat', join(directory, 'vms/alpha/checkpoints/two/image/escape')),
      'No such file',
    );
    t.match(await failure('cat', join(directory, 'vms/alpha/missing.txt')), 'No such file');
    t.same(errors, [], 'no cause for a log line');

    const bad = join(directory, one, 'disks/bad');
    t.match(await failure('cat', bad), 'Input/output error');
    await logged(t, errors, /disks\/bad: block 7 of 00000001\.redo: checksum differs \(EIO\)/);
    const handle = await open(bad);
    const good = Buffer.alloc(4096);
    t.equal((await handle.read(good, 0, 4096, damageStart - 200_000)).bytesRead, 4096);
    t.ok(good.equals(patternBytes(3, damageStart - 200_000, 4096)), 'what is whole can be read');
    await t.rejects(handle.read(good, 0, 4096, damageStart), { code: 'EIO' });
    await handle.close();

    t.match(
      await failure('ls', join(directory, 'vms/alpha/checkpoints/broken')),
      'Input/output error',
    );
    t.match(
      await command('ls', join(directory, 'vms/alpha/checkpoints')),
      'broken',
      'but it is listed',
    );

    const begun = performance.now();
    t.match(await failure('head', '-c', '1', join(directory, one, 'disks/stuck')), 'timed out');
    t.ok(performance.now() - begun < 10_000, 'a stuck source is an error in bounded time');
    await logged(t, errors, /disks\/stuck: .*ETIMEDOUT/);
    t.equal(
      await readFile(join(directory, one, 'manifest.json'), 'utf8'),
      '{"name":"one"}\n',
      'it serves on',
    );
  });

  t.test('nothing can be written', async (t) => {
    const { directory } = await serve(t, { transport });
    const memory = join(directory, one, 'memory');
    const readOnly = 'Read-only file system';
    t.match(await failure('touch', memory), readOnly);
    t.match(await failure('touch', join(directory, 'new')), readOnly);
    t.match(
      await failure('dd', 'if=/dev/zero', `of=${memory}`, 'count=1', 'conv=notrunc'),
      readOnly,
    );
    t.match(await failure('truncate', '-s', '0', memory), readOnly);
    t.match(await failure('mkdir', join(directory, 'vms/alpha/checkpoints/new')), readOnly);
    t.match(await failure('rmdir', join(directory, one)), readOnly);
    t.match(await failure('rm', '-f', memory), readOnly);
    t.match(await failure('mv', memory, join(directory, 'x')), readOnly);
    t.match(await failure('ln', memory, join(directory, 'x')), readOnly);
    t.match(await failure('ln', '-s', memory, join(directory, 'x')), readOnly);
    t.match(await failure('chmod', '600', memory), readOnly);
  });

  t.test('extended attributes and df', async (t) => {
    const { directory } = await serve(t, { transport });
    // A caller's buffer may be too small: Python's is what it is told to be.
    const script = [
      'import os, sys',
      'd = sys.argv[1]',
      'print(sorted(os.listxattr(d + "/two")))',
      'print(sorted(os.listxattr(d + "/one")))',
      'print(os.getxattr(d + "/two", "user.ckptfs.parent").decode())',
      'print(os.listxattr(d + "/two/memory"))',
      'try: os.getxattr(d + "/one", "user.ckptfs.parent")',
      'except OSError as e: print(e.errno)',
    ].join('\n');
    const lines = (
      await command('python3', '-c', script, join(directory, 'vms/alpha/checkpoints'))
    ).split('\n');
    t.same(lines.slice(0, 5), [
      "['user.ckptfs.checksum', 'user.ckptfs.id', 'user.ckptfs.parent']",
      "['user.ckptfs.checksum', 'user.ckptfs.id']",
      '1'.repeat(32),
      '[]',
      '61',
    ]);
    t.match(await command('df', '--output=fstype', directory), 'fuse.ckptfs');
    t.match(await command('stat', '-f', '-c', '%l %b', directory), /^255 [1-9]\d*\n$/);
  });

  t.test('a status and a log that change', async (t) => {
    const { directory, store } = await serve(t, { transport });
    const status = join(directory, 'vms/alpha/status.json');
    const log = join(directory, 'vms/alpha/console.log');
    const asked = async () => (JSON.parse(await command('cat', status)) as { asked: number }).asked;
    const before = await asked();
    t.ok((await asked()) > before, 'each look is a new one');
    t.equal(await command('cat', log), 'hello\n');
    await appendFile(join(store, 'vms/alpha/console.log'), 'more\n');
    t.equal(await command('cat', log), 'hello\nmore\n');
    await rm(join(store, 'vms/alpha/console.log'));
    t.match(await failure('cat', log), 'No such file', 'and what is removed is gone at once');
  });

  t.test('live files are never cached', async (t) => {
    const { directory } = await serve(t, { transport, live: true });
    t.same(await readdir(join(directory, 'vms/alpha/disks')), ['vda']);
    const memory = join(directory, 'vms/alpha/memory');
    t.equal((await stat(memory)).size, memoryBytes);
    const handle = await open(memory);
    const read = async () => (await handle.read(Buffer.alloc(1), 0, 1, 0)).buffer[0];
    const first = await read();
    t.not(await read(), first, 'not even by the handle that has read it');
    await handle.close();
    t.ok(
      (await readFile(join(directory, 'vms/alpha/disks/vda'))).equals(
        patternBytes(20, 0, diskBytes),
      ),
    );
  });

  t.test('unmounting', async (t) => {
    await t.test('by the server, while a program reads', async (t) => {
      const { directory, child } = await serve(t, { transport });
      const handle = await open(join(directory, one, 'memory'));
      const exited = once(child, 'exit');
      child.send('unmount');
      await eventually(
        t,
        'the mount is gone',
        async () => (await mountOn(directory)) === undefined,
      );
      t.same(await readdir(directory), []);
      t.same(await exited, [0, null]);
      await t.rejects(handle.read(Buffer.alloc(1), 0, 1, 3 << 20), 'nobody serves it any more');
      await t.rejects(handle.close(), { code: 'ENOTCONN' });
    });

    await t.test('by SIGTERM', async (t) => {
      const { directory, child } = await serve(t, { transport });
      const exited = once(child, 'exit');
      child.kill('SIGTERM');
      t.same(await exited, [0, null]);
      t.equal(await mountOn(directory), undefined);
    });

    await t.test('by somebody else: the server sees it and ends', async (t) => {
      const { directory, child } = await serve(t, { transport });
      const exited = once(child, 'exit');
      await unmountPath(directory);
      t.same(await exited, [0, null]);
    });

    await t.test('by the end of the process', async (t) => {
      const { directory, child } = await serve(t, { transport });
      child.send('exit');
      await once(child, 'exit');
      await eventually(
        t,
        'the mount is gone',
        async () => (await mountOn(directory)) === undefined,
      );
    });

    await t.test('a server that was killed leaves a mount that can be taken away', async (t) => {
      const { directory, child } = await serve(t, { transport });
      child.kill('SIGKILL');
      await once(child, 'exit');
      await t.rejects(stat(directory), { code: 'ENOTCONN' });
      await command('umount', '-l', directory);
      t.same(await readdir(directory), []);
    });
  });
}
