/**
 * Redo logs committed into their parents, by the command: of stopped VMs and of running ones, where a checkpoint
 * refers to the parent, killed anywhere; and discarded, and repaired.
 */
import { copyFile, mkdir, readdir, readFile, stat, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import t from 'tap';
import { start, withStore } from './support/cli.js';
import { dd, sumOf, withDisk } from './support/vm_disk.js';

t.setTimeout(300_000);

const mib = 2 ** 20;
const done = { status: 0 };

t.test('the disk of a stopped VM', async (t) => {
  const cli = await withStore(t);
  const { ckptfs } = cli;
  const disk = await withDisk(t, cli);
  const shell = await disk.boot();
  await shell.run(dd(1, 3, 700));
  await shell.run('blkdiscard -o 3145728 -l 524288 /dev/vda');
  await shell.run(dd(7, 1000, 20));
  await ckptfs('stop', 'vm');
  const expected = await disk.sum('vm');
  t.not(await sumOf(disk.parent), expected);
  const committed = await ckptfs('disk', 'commit', 'vm', '--json');
  t.match(committed.objects.at(-1), {
    ...{ type: 'result', disk: 'vda', logs: 1, parent: disk.parent, copied: false },
  });
  t.equal(await sumOf(disk.parent), expected, 'the parent is the whole disk');
  t.same(await disk.logs(), []);
  t.equal(await disk.sum('vm'), expected);
  t.match(await ckptfs('disk', 'commit', 'vm'), { ...done, stdout: /no redo logs/ });

  // It goes on, twice.
  for (const seed of [15, 16]) {
    const again = await disk.again();
    const [found] = /[0-9a-f]{64}/.exec(await again.run('sha256sum /dev/vda')) ?? [];
    t.equal(found, await sumOf(disk.parent), 'the guest reads what was committed');
    await again.run(dd(seed, 100, 10));
    await ckptfs('stop', 'vm');
    const then = await disk.sum('vm');
    t.match(await ckptfs('disk', 'commit', 'vm'), { ...done, stdout: /committed 1 redo log to/ });
    t.equal(await sumOf(disk.parent), then);
  }

  const last = await disk.again();
  await last.run(dd(9, 0, 5));
  t.match(await ckptfs('disk', 'discard', 'vm'), { status: 11, stderr: /running/ });
  await ckptfs('stop', 'vm');
  const kept = await sumOf(disk.parent);
  t.not(await disk.sum('vm'), kept);
  t.match(await ckptfs('disk', 'discard', 'vm'), { ...done, stdout: /1 redo logs discarded/ });
  t.equal(await disk.sum('vm'), kept, 'what was written is gone');

  // Redo logs hold differences: over anything else they are no disk.
  const over = await disk.again();
  await over.run(dd(10, 0, 5));
  await ckptfs('stop', 'vm');
  await writeFile(disk.parent, Buffer.alloc(4 * mib, 0x62));
  t.match(await ckptfs('disk', 'info', 'vm'), { status: 4, stderr: /changed/ });
});

t.test('the disk of a running VM, while it writes', async (t) => {
  const cli = await withStore(t);
  const { ckptfs } = cli;
  for (const mode of ['nonpersistent', 'persistent']) {
    const disk = await withDisk(t, cli, mode);
    const shell = await disk.boot();
    await shell.run(dd(1, 0, 1000));
    if (mode === 'persistent') {
      t.match(await ckptfs('disk', 'commit', 'vm'), { ...done, stdout: /no redo logs/ });
      t.match(await ckptfs('checkpoint', 'vm', '--name', 'gone'), done);
      t.match(await ckptfs('rm', 'vm@gone'), done);
      await shell.run(dd(3, 500, 500));
    }
    const writing = shell.run(
      Array.from({ length: 8 }, (_, i) => dd(i, i * 100, 300)).join(' && '),
    );
    for (let i = 0; i < 3; i++) {
      t.match(await ckptfs('disk', 'commit', 'vm:vda'), {
        ...done,
        stdout: /committed 1 redo log/,
      });
    }
    await writing;
    t.equal((await disk.logs()).length, 1);
    // What the guest reads from the device, and what is there when its plug is pulled.
    await shell.run('echo 3 > /proc/sys/vm/drop_caches');
    const [seen] = /[0-9a-f]{64}/.exec(await shell.run('sha256sum /dev/vda')) ?? [];
    await ckptfs('stop', 'vm');
    t.equal(await disk.sum('vm'), seen);
    t.match(await ckptfs('disk', 'commit', 'vm'), done);
    t.equal(await sumOf(disk.parent), seen);
    t.match(await ckptfs('rm', 'vm', '--force'), done);
  }
});

t.test('a parent that others refer to is left as it is', async (t) => {
  const cli = await withStore(t);
  const { ckptfs } = cli;
  const disk = await withDisk(t, cli);
  const original = await sumOf(disk.parent);
  const shell = await disk.boot();
  await shell.run(dd(1, 0, 300));
  t.match(await ckptfs('checkpoint', 'vm', '--name', 'one'), done);
  const one = await disk.sum('vm@one');
  await shell.run(dd(2, 200, 300));
  const [now] = /[0-9a-f]{64}/.exec(await shell.run('sync; sha256sum /dev/vda')) ?? [];

  const refused = await ckptfs('disk', 'commit', 'vm');
  t.match(refused, {
    status: 2,
    stderr: /vm@one stand on.*takes up to 4194304 bytes of \d+.*--copy/s,
  });
  t.same(await disk.own(), [], 'nothing is left of it');
  t.match(await ckptfs('disk', 'commit', 'vm', '--copy'), {
    ...done,
    stdout: /a copy of its parent/,
  });
  t.equal(await sumOf(disk.parent), original);
  t.equal(await disk.sum('vm@one'), one);
  t.match(await ckptfs('verify', 'vm@one'), done);
  t.equal((await disk.own()).length, 1);

  // A checkpoint over the copy has a link of it, and stands when the VM has moved on.
  await shell.run(dd(3, 900, 30));
  t.match(await ckptfs('checkpoint', 'vm', '--name', 'two'), done);
  const two = await disk.sum('vm@two');
  await shell.run(dd(4, 900, 60));
  t.match(await ckptfs('disk', 'commit', 'vm', '--copy'), {
    ...done,
    stdout: /a copy of its parent/,
  });
  await ckptfs('stop', 'vm');
  t.equal((await disk.own()).length, 1, 'the copy before it is the checkpoint’s alone');
  t.equal(await disk.sum('vm@two'), two);
  t.match(await ckptfs('verify', '--all'), done);

  t.match(await ckptfs('restore', 'vm@two', '--name', 'other', '--detach'), done);
  t.match(await ckptfs('stop', 'other'), done);
  t.match(await ckptfs('restore', 'vm@one', '--detach'), done);
  await ckptfs('stop', 'vm');
  t.match(await ckptfs('rm', 'vm@two'), done);
  t.match(await ckptfs('rm', 'vm@one'), done);
  t.equal(await disk.sum('other'), two);
  t.equal(await disk.sum('vm'), one);
  t.ok(now);
  // Nobody else refers to it any more.
  t.match(await ckptfs('disk', 'commit', 'vm'), { ...done, stdout: /parent\.img/ });
  t.equal(await sumOf(disk.parent), one);
});

t.test('a commit that is killed anywhere can be made again', async (t) => {
  const cli = await withStore(t);
  const { ckptfs, store } = cli;
  const disk = await withDisk(t, cli, 'nonpersistent', 64 * mib);
  const shell = await disk.boot();
  await shell.run('dd if=/dev/zero of=/dev/vda bs=1M count=48 conv=notrunc,fsync');
  await ckptfs('stop', 'vm');
  const expected = await disk.sum('vm');
  const saved = join(disk.scratch, 'saved');
  await mkdir(saved);
  for (const name of await readdir(disk.directory)) {
    await copyFile(join(disk.directory, name), join(saved, name));
  }
  let cut = 0;
  for (let round = 0; round < 8; round++) {
    const { child, finished } = start(store, ['disk', 'commit', 'vm']);
    // From the start of Node.js to the end of it all.
    await sleep(80 + round * 25);
    child.kill('SIGKILL');
    await finished;
    t.equal(await disk.sum('vm'), expected, `after ${80 + round * 25} ms`);
    if ((await disk.logs()).length > 0)
      cut += (await readFile(join(disk.directory, 'base.json'), 'utf8')).includes('committing')
        ? 1
        : 0;
  }
  t.match(await ckptfs('disk', 'commit', 'vm'), done);
  t.equal(await sumOf(disk.parent), expected);
  t.comment(`${cut} were cut short in the midst of it`);
});

t.test('a damaged log is cut off before the damage', async (t) => {
  const cli = await withStore(t);
  const { ckptfs } = cli;
  const disk = await withDisk(t, cli);
  const shell = await disk.boot();
  await shell.run(dd(1, 0, 100));
  const [first] = /[0-9a-f]{64}/.exec(await shell.run('sync; sha256sum /dev/vda')) ?? [];
  const [log = ''] = await disk.logs();
  const path = join(disk.directory, log);
  const { size } = await stat(path);
  await shell.run(dd(2, 500, 100));
  t.match(await ckptfs('checkpoint', 'vm', '--name', 'kept'), done);
  await ckptfs('stop', 'vm');
  const bytes = await readFile(path);
  bytes[size + 4096] = (bytes[size + 4096] ?? 0) ^ 1;
  await truncate(path, 0);
  await writeFile(path, bytes);
  t.match(await ckptfs('disk', 'check', 'vm'), { status: 4, stdout: /DAMAGED/ });
  t.match(await ckptfs('disk', 'check', 'vm@kept', '--repair'), {
    status: 2,
    stderr: /never changes/,
  });
  t.match(await ckptfs('disk', 'check', 'vm', '--repair', '--json'), {
    ...done,
    objects: [{ repaired: [{ file: path, keptBytes: size }] }, { ok: true }],
  });
  t.equal(await disk.sum('vm'), first, 'all that came before');
  t.match(
    await ckptfs('verify', 'vm@kept'),
    { status: 4 },
    'the checkpoint’s link was not replaced',
  );
  const again = await disk.again();
  t.match(await again.run('sha256sum /dev/vda'), new RegExp(first ?? '-'));
  await ckptfs('stop', 'vm');
});
