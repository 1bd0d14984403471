/** What every transport has to do under load and while the tree changes: see fs-suite.ts. */
import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { open, readFile, readdir, readlink, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { Test } from 'tap';
import { mountOn } from '../src/fs/mounts.js';
import type { TransportName } from '../src/fs/transport.js';
import { command, eventually, failure, logged, serve, temporary } from './fs-harness.js';
import type { ServerMessage } from './fs-server.js';
import { diskBytes, memoryBytes, patternBytes, slowMs, sparse } from './fs-view.js';

const checkpoints = 'vms/alpha/checkpoints';
const [one, two] = [`${checkpoints}/one`, `${checkpoints}/two`];

/** Reads whole files with so many threads, as often as that, and prints the hash of each file once. */
const readers = `
import hashlib, sys, threading
threads, rounds, paths = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
seen, failures = set(), []
def read(i):
    for r in range(rounds):
        path = paths[(i + r) % len(paths)]
        try:
            with open(path, "rb", buffering=0) as f:
                h = hashlib.sha256()
                while piece := f.read(50000 + 4096 * i): h.update(piece)
                seen.add((path, h.hexdigest()))
        except OSError as e: failures.append(e)
all = [threading.Thread(target=read, args=(i,)) for i in range(threads)]
for t in all: t.start()
for t in all: t.join()
if failures: raise failures[0]
for path, digest in sorted(seen): print(digest)
`;

/** Maps a file and compares it with another one; then by direct IO. */
const mapping = `
import mmap, os, sys
with open(sys.argv[1], "rb") as f, open(sys.argv[2], "rb") as g:
    expected = g.read()
    with mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as m:
        print(m[:] == expected, m[5000:5010] == expected[5000:5010])
fd = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECT)
buffer, got = mmap.mmap(-1, 1 << 20), b""
while (n := os.preadv(fd, [buffer], len(got))) > 0: got += buffer[:n]
print(got == expected)
`;

const seeking = `
import os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
for at in map(int, sys.argv[2:]):
    for whence in os.SEEK_DATA, os.SEEK_HOLE:
        try: print(os.lseek(fd, at, whence), end=" ")
        except OSError as e: print("errno", e.errno, end=" ")
`;

/** Waits for news in a file, first in vain, and tells what is in it then. */
const polling = `
import json, os, select, sys
with open(sys.argv[1]) as f:
    print(json.load(f)["state"])
    poller = select.poll()
    poller.register(f, select.POLLPRI)
    print(poller.poll(700), flush=True)
    print(poller.poll(20000) == [(f.fileno(), select.POLLPRI)], poller.poll(0) != [])
    poller.modify(f, select.POLLIN)
    print(poller.poll(0) != [])
with open(sys.argv[1]) as f: print(json.load(f)["state"])
`;

export function loadSuite(t: Test, transport: TransportName): void {
  t.test('holes', async (t) => {
    const { directory, store } = await serve(t, { transport });
    const file = join(directory, two, 'image/sparse');
    const stored = join(store, two, 'sparse');
    const places = [0, sparse.dataBytes, sparse.dataAt[1] ?? 0, sparse.bytes - 1, sparse.bytes];
    const seek = (path: string) => command('python3', '-c', seeking, path, ...places.map(String));
    // fuse-native cannot tell, and the kernel takes all for data then.
    if (transport === 'libfuse3') t.equal(await seek(file), await seek(stored));
    else t.match(await seek(file), /errno 6 errno 6 $/, 'ENXIO at the end');
    const copy = join(await temporary(t), 'copy');
    await command('cp', file, copy);
    await command('cmp', copy, stored);
    if (transport === 'libfuse3') {
      t.ok((await stat(copy)).blocks <= (await stat(stored)).blocks, 'cp leaves the holes out');
    }
  });

  t.test('mappings and direct IO', async (t) => {
    const { directory, store } = await serve(t, { transport });
    const stored = join(store, two, 'sparse');
    t.equal(
      await command('python3', '-c', mapping, join(directory, two, 'image/sparse'), stored),
      'True True\nTrue\n',
    );
    const copy = join(await temporary(t), 'memory');
    await command('cp', join(directory, one, 'memory'), copy);
    t.equal(
      await command('python3', '-c', mapping, join(directory, one, 'memory'), copy),
      'True True\nTrue\n',
    );
  });

  t.test('64 readers at once', async (t) => {
    const { directory, counts } = await serve(t, { transport });
    const paths = [
      `${one}/memory`,
      `${two}/memory`,
      `${one}/disks/vda`,
      `${two}/disks/vda`,
      `${two}/image/sparse`,
      `${one}/manifest.json`,
    ].map((path) => join(directory, path));
    const hashes = async () =>
      (await command('python3', '-c', readers, '64', '2', ...paths)).trim().split('\n');
    const sums = (await command('sha256sum', ...paths)).trim().split('\n');
    t.same((await hashes()).sort(), sums.map((line) => line.split(' ')[0]).sort());
    await eventually(t, 'all sources are closed', async () => {
      const { opened, closed } = await counts();
      return opened === closed;
    });
  });

  t.test('checkpoints come and go', async (t) => {
    const { directory, ask } = await serve(t, { transport });
    const names = async () => await readdir(join(directory, checkpoints));
    const manifest = (name: string) => join(directory, checkpoints, name, 'manifest.json');
    t.same(await names(), ['broken', 'latest', 'one', 'two']);
    t.match(await failure('cat', manifest('three')), 'No such file');
    await ask('add three 3');
    t.same(await names(), ['broken', 'latest', 'one', 'three', 'two'], 'a new one is listed');
    t.match(await readFile(manifest('three'), 'utf8'), 'three', 'and can be read');
    t.equal(await readlink(join(directory, checkpoints, 'latest')), 'three');
    t.equal((await readdir(join(directory, 'by-time'))).length, 3);

    const path = join(directory, checkpoints, 'three/memory');
    t.ok((await readFile(path)).equals(patternBytes(3, 0, memoryBytes)));
    await ask('remove three');
    t.same(await names(), ['broken', 'latest', 'one', 'two']);
    await eventually(t, 'a removed one is gone', async () =>
      (await failure('cat', path)).includes('No such file'),
    );
    t.equal(await readlink(join(directory, checkpoints, 'latest')), 'two');

    await ask('add three 4');
    await eventually(t, 'the next one of that name is another one', async () =>
      (await readFile(path)).equals(patternBytes(4, 0, memoryBytes)),
    );
    t.ok((await readFile(join(directory, two, 'memory'))).equals(patternBytes(2, 0, memoryBytes)));
  });

  t.test('a reader outlives its checkpoint', async (t) => {
    const { directory, ask } = await serve(t, { transport });
    const expected = patternBytes(2, 0, memoryBytes);
    const path = join(directory, two, 'memory');
    const handle = await open(path);
    const piece = Buffer.alloc(100_000);
    t.equal((await handle.read(piece, 0, piece.length, 0)).bytesRead, piece.length);
    await ask('remove two');
    await eventually(t, 'it cannot be opened', async () =>
      (await failure('cat', path)).includes('No such file'),
    );
    for (const position of [0, 1_000_000, memoryBytes - piece.length]) {
      t.equal((await handle.read(piece, 0, piece.length, position)).bytesRead, piece.length);
      t.ok(piece.equals(expected.subarray(position, position + piece.length)), `at ${position}`);
    }
    if (transport === 'libfuse3') t.equal((await handle.stat()).size, memoryBytes);
    await handle.close();
  });

  t.test('slow and stuck sources hold up nobody else', async (t) => {
    const { directory, errors } = await serve(t, { transport, requestLimitMs: 2000 });
    const begun = performance.now();
    // Directly, or they would wait for one another's page.
    const stuck = Promise.all(
      Array.from({ length: 12 }, () =>
        failure('dd', `if=${join(directory, one, 'disks/stuck')}`, 'count=1', 'iflag=direct'),
      ),
    );
    const slow = command('cat', join(directory, one, 'disks/slow'));
    const paths = ['vda', 'vda'].map((name) => join(directory, one, 'disks', name));
    t.match(await command('python3', '-c', readers, '4', '1', ...paths), /^[0-9a-f]{64}\n$/);
    t.equal(await readFile(join(directory, one, 'manifest.json'), 'utf8'), '{"name":"one"}\n');
    t.ok(performance.now() - begun < 10_000, 'the rest is served meanwhile');
    t.equal((await slow).length, 4096);
    t.ok(performance.now() - begun >= slowMs);
    for (const said of await stuck) t.match(said, 'timed out');
    await logged(t, errors, /disks\/stuck: no answer within 2000 ms \(ETIMEDOUT\)/);
  });

  // To fuse-native a status is readable at any time, and no more than that.
  if (transport === 'libfuse3')
    t.test('a program that waits for a status', async (t) => {
      const { directory, child } = await serve(t, { transport });
      const status = join(directory, 'vms/alpha/status.json');
      const waiting = execFile('python3', ['-c', polling, status]);
      let said = '';
      waiting.stdout?.on('data', (text: string) => (said += text));
      const ended = once(waiting, 'close');
      await eventually(t, 'it waits', () => Promise.resolve(said.includes(']')));
      child.send('state running');
      t.same(await ended, [0, null]);
      t.equal(said, 'stopped\n[]\nTrue True\nTrue\nrunning\n');
    });

  t.test('unmounting under load', async (t) => {
    const { directory, child } = await serve(t, { transport });
    const paths = [`${one}/memory`, `${two}/image/sparse`].map((path) => join(directory, path));
    const reading = failure('python3', '-c', readers, '16', '10000', ...paths);
    const exited = once(child, 'exit');
    const left = new Promise<ServerMessage>((resolve) =>
      child.on('message', (message: ServerMessage) => {
        if (message.type === 'left') resolve(message);
      }),
    );
    await new Promise((resolve) => setTimeout(resolve, 700));
    child.send('unmount');
    await eventually(t, 'the mount is gone', async () => (await mountOn(directory)) === undefined);
    t.same(await exited, [0, null]);
    if (transport === 'libfuse3') t.match(await left, { devices: 0, threads: 0 });
    t.match(await reading, /Error/, 'its readers are told');
    t.same(await readdir(directory), []);
  });

  t.test('a mount whose server was killed can be replaced', async (t) => {
    const { directory, store, child } = await serve(t, { transport });
    t.equal((await readFile(join(directory, one, 'disks/vda'))).length, diskBytes);
    child.kill('SIGKILL');
    await once(child, 'exit');
    await serve(t, { transport, store, directory });
    t.equal((await readFile(join(directory, one, 'disks/vda'))).length, diskBytes);
  });
}
