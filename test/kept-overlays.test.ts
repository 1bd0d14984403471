/**
 * Overlays that are kept, `-o rw,overlay=DIR`: what is written through a mount is there in the next one, of that
 * checkpoint's disk and no other, and the checkpoint stays as it is.
 */
import { randomBytes } from 'node:crypto';
import { mkdir, open, readFile, rename, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { KeptOverlays } from '../src/fs/kept_overlays.js';
import { unmountPath } from '../src/fs/mounts.js';
import { eventually, noFuse, temporary } from './fs-harness.js';
import { endless, mountStore, withStore } from './support/cli.js';
import { temporaryDirectory } from './support/guests.js';

t.setTimeout(300_000);

const diskBytes = 4 * 2 ** 20;

/** A stopped VM w with a disk of random bytes and the checkpoint w@one. */
async function withDisk(t: Test) {
  const cli = await withStore(t);
  const scratch = await temporaryDirectory();
  t.teardown(scratch.remove);
  const path = (name: string) => join(scratch.path, name);
  const contents = randomBytes(diskBytes);
  await writeFile(path('disk'), contents);
  const run = [...endless, '--name', 'w', '--disk', path('disk'), '--detach'];
  t.match(await cli.ckptfs(...run), { status: 0 });
  t.match(await cli.ckptfs('checkpoint', 'w', '--name', 'one'), { status: 0 });
  return { ...cli, contents, path };
}

/** The disk of w@one in a mount. */
const diskIn = (mount: string, disk = 'vda') => join(mount, 'vms/w/checkpoints/one/disks', disk);

t.test('what is written is there in the next mount', { skip: noFuse() }, async (t) => {
  const cli = await withDisk(t);
  const { ckptfs, contents, path } = cli;
  const options = ['-o', `rw,overlay=${path('kept')}`];
  const unmount = (mount: string) =>
    eventually(t, 'it can be unmounted', async () => (await ckptfs('umount', mount)).status === 0);
  const expected = Buffer.from(contents);
  const write = async (mount: string, bytes: number, position: number, sync: boolean) => {
    const handle = await open(diskIn(mount), 'r+');
    const data = randomBytes(bytes);
    await handle.write(data, 0, bytes, position);
    if (sync) await handle.sync();
    await handle.close();
    data.copy(expected, position);
  };
  const made = stat(diskIn(await mountStore(t, cli))).then(({ mtimeMs }) => mtimeMs);

  const first = await mountStore(t, cli, ...options);
  await write(first, 100_000, 12_345, true);
  t.ok((await readFile(diskIn(first))).equals(expected));
  const other = join(path('.'), 'other');
  await mkdir(other);
  t.match(await ckptfs('mount', other, ...options), { status: 11, stderr: /by another mount/ });
  await unmount(first);
  t.same(
    await readFile(path('kept/w@one/checkpoint.json'), 'utf8'),
    `{"id":"${String((await ckptfs('show', 'w@one', '--json')).objects.at(-1)?.id)}"}\n`,
  );

  const second = await mountStore(t, cli, ...options);
  t.ok((await stat(diskIn(second))).mtimeMs > (await made), 'its time is that of the last write');
  t.ok((await readFile(diskIn(second))).equals(expected), 'read before anything is written');
  await write(second, 5000, 100_000, false);
  await write(second, 700, diskBytes - 700, false);
  t.ok((await readFile(diskIn(second))).equals(expected));
  await unmountPath(second, true);

  const third = await mountStore(t, cli, ...options);
  t.ok((await readFile(diskIn(third))).equals(expected), 'and what the second one wrote');
  const plain = await mountStore(t, cli, '-o', 'rw');
  t.ok((await readFile(diskIn(plain))).equals(contents), 'a mount without it has the checkpoint');
  t.match(await ckptfs('verify', 'w@one'), { status: 0 });
  const flat = path('flat');
  t.match(await ckptfs('disk', 'flatten', 'w@one', '-o', flat), { status: 0 });
  t.ok((await readFile(flat)).equals(contents), 'which has not changed');
});

t.test('the overlay of another checkpoint is refused', { skip: noFuse() }, async (t) => {
  const cli = await withDisk(t);
  const { ckptfs, contents, path, store } = cli;
  const options = ['-o', `rw,overlay=${path('kept')}`];
  const first = await mountStore(t, cli, ...options);
  const handle = await open(diskIn(first), 'r+');
  await handle.write(Buffer.alloc(4096, 'x'), 0, 4096, 0);
  await handle.close();
  await unmountPath(first, true);
  (await KeptOverlays.open(path('kept'))).close(); // the first mount's process has closed it
  const log = path('kept/w@one/vda.redo');
  const before = await readFile(log);

  t.match(await ckptfs('rm', 'w@one'), { status: 0 });
  t.match(await ckptfs('checkpoint', 'w', '--name', 'one'), { status: 0 });
  const second = await mountStore(t, cli, ...options);
  for (const flags of ['r', 'r+']) {
    await t.rejects(open(diskIn(second), flags), /-116/, `ESTALE ${flags}`);
  }
  const mountLog = await readFile(join(store.root, 'mount.log'), 'utf8');
  t.match(mountLog, /disks\/vda: the overlay in .*kept\/w@one is of checkpoint .*\(ESTALE\)/);
  t.ok(before.equals(await readFile(log)), 'it has not been touched');

  // A log over the right name that is of nobody knows what, and one that follows another log.
  await rename(path('kept/w@one/checkpoint.json'), path('one.json'));
  await t.rejects(open(diskIn(second)), { code: 'ENOENT' });
  await writeFile(path('kept/w@one/checkpoint.json'), '{"id":');
  await t.rejects(open(diskIn(second)), { code: 'EIO' });
  const { id } = (await ckptfs('show', 'w@one', '--json')).objects.at(-1) ?? {};
  await writeFile(path('kept/w@one/checkpoint.json'), JSON.stringify({ id }));
  await t.rejects(open(diskIn(second), 'r+'), { code: /EINVAL|EIO/ }, 'it says what it follows');
  t.ok(before.equals(await readFile(log)));
  await rename(path('kept/w@one'), path('aside'));
  t.ok((await readFile(diskIn(second))).equals(contents), 'moved away, the disk is the new one');
});

t.test('unfit directories', { skip: noFuse() }, async (t) => {
  const base = await temporary(t);
  const path = (name: string) => join(base, name);
  await mkdir(path('full/x'), { recursive: true });
  await t.rejects(KeptOverlays.open(path('full')), { code: 'USAGE', message: /is not empty/ });
  await t.rejects(KeptOverlays.open(path('a/b')), { code: 'NOT_FOUND' });
  const kept = await KeptOverlays.open(path('kept'));
  await t.rejects(KeptOverlays.open(path('kept')), { code: 'BUSY', message: /another mount/ });
  const checkpoint = { vm: 'w', name: 'one', id: '1'.repeat(32) };
  t.equal(await kept.writtenMs(checkpoint, 'vda'), undefined);
  t.equal(await kept.place(checkpoint, 'vda'), path('kept/w@one/vda.redo'));
  const other = { ...checkpoint, id: '2'.repeat(32) };
  await t.rejects(kept.place(other, 'vdb'), { errno: 'ESTALE', message: /is now 2222/ });
  kept.close();
  await writeFile(path('kept/overlays.json'), '{"format":2}');
  await t.rejects(KeptOverlays.open(path('kept')), { code: 'UNSUPPORTED', message: /format 2/ });

  const { store, ckptfs } = await withStore(t);
  await mkdir(path('mnt'));
  for (const [overlay, why] of [
    [join(store.root, 'overlays'), /lies in the store/],
    [path('mnt/kept'), /lies in the mount/],
    [path('full'), /is not empty/],
  ] as const) {
    const refused = await ckptfs('mount', path('mnt'), '-o', `rw,overlay=${overlay}`);
    t.match(refused, { status: 2, stderr: why }, overlay);
  }
  const readOnly = await ckptfs('mount', path('mnt'), '-o', `overlay=${path('new')}`);
  t.match(readOnly, { status: 2, stderr: /give rw too/ });
});
