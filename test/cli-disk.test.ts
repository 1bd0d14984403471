/** ckptfs disk: disks that are made, looked at, checked and flattened. */
import { open, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import t from 'tap';
import { run, withStore } from './support/cli.js';
import { temporaryDirectory } from './support/guests.js';

const mib = 1 << 20;

t.test('a disk is made empty, or of another one', async (t) => {
  const { ckptfs } = await withStore(t);
  const scratch = await temporaryDirectory();
  t.teardown(scratch.remove);
  const empty = join(scratch.path, 'empty.img');
  t.match(await ckptfs('disk', 'create', empty, '--size', '3M', '--json'), {
    status: 0,
    objects: [{ type: 'result', path: empty, bytes: 3 * mib }],
  });
  const { size, blocks } = await stat(empty);
  t.same([size, blocks], [3 * mib, 0]);
  t.match(await ckptfs('disk', 'create', empty, '--size', '3M'), { status: 1, stderr: /exists/ });

  const file = await open(empty, 'r+');
  await file.write(Buffer.alloc(65_536, 7), 0, 65_536, mib);
  await file.close();
  const copy = join(scratch.path, 'copy.img');
  t.match(await ckptfs('disk', 'create', copy, '--from', empty), { status: 0 });
  t.ok((await readFile(copy)).equals(await readFile(empty)));
  t.equal((await stat(copy)).blocks, 128, 'with its holes');
  t.match(await ckptfs('disk', 'map', copy, '--quiet'), {
    stdout: `0 ${mib} 0 zeros\n${mib} 65536 0 data\n${mib + 65_536} ${2 * mib - 65_536} 0 zeros\n`,
  });

  for (const [args, status, why] of [
    [['create', join(scratch.path, 'x')], 2, /--size or --from/],
    [['create', join(scratch.path, 'x'), '--size', '1000'], 2, /512-byte sectors/],
    [['info', 'nobody'], 10, /no VM and no file nobody/],
    [['info', join(scratch.path, 'missing')], 10, /missing/],
    [['flatten', empty], 2, /--output/],
  ] as const) {
    t.match(await ckptfs('disk', ...args), { status, stderr: why }, args.join(' '));
  }
});

t.test('the disks of a VM and of its checkpoints', async (t) => {
  const { store, ckptfs } = await withStore(t);
  const scratch = await temporaryDirectory();
  t.teardown(scratch.remove);
  const disk = join(scratch.path, 'disk.img');
  await writeFile(disk, Buffer.alloc(mib, 1));
  const vm = ['--name', 'vm', '--disk', disk, '--disk', `${disk},id=extra,readonly`, '--detach'];
  t.match(await ckptfs(...run('random-writer', 'mib=1'), ...vm), { status: 0 });
  t.match(await ckptfs('checkpoint', 'vm', '--name', 'one'), { status: 0 });
  t.match(await ckptfs('disk', 'info', 'vm:vda'), { status: 11, stderr: /in use/ }, 'it runs');
  await ckptfs('stop', 'vm');

  t.match(await ckptfs('disk', 'info', 'vm'), { status: 2, stderr: /:DISK, of vda, extra/ });
  t.match(await ckptfs('disk', 'info', 'vm:nope'), { status: 10, stderr: /has vda, extra/ });
  t.match(await ckptfs('disk', 'info', 'vm:vda', '--json'), {
    status: 0,
    objects: [
      {
        disk: 'vm:vda',
        bytes: mib,
        layers: [
          { path: disk, layer: 0, dataBytes: mib, zeroBytes: 0 },
          { layer: 1, sealed: true, dataBytes: 0 },
          { layer: 2, sealed: false, dataBytes: 0 },
        ],
      },
    ],
  });
  t.match(await ckptfs('disk', 'info', 'vm@one:vda'), {
    status: 0,
    stdout:
      /disk: +vm@one:vda\nsize: +1 MiB\nlayer 0: .*disk\.img: 1 MiB\nlayer 1: .* sealed: 0 B\n$/,
  });
  const flat = join(scratch.path, 'flat.img');
  t.match(await ckptfs('disk', 'flatten', 'vm@one:vda', '-o', flat), { status: 0 });
  t.ok((await readFile(flat)).equals(await readFile(disk)));

  t.match(await ckptfs('disk', 'check', 'vm@one:vda'), { status: 0, stdout: /vm@one:vda: whole/ });
  t.match(await ckptfs('disk', 'check', 'vm:vda'), { status: 0, stdout: /whole/ });
  const log = join(store.diskDirectory('vm', 'vda'), '00000001.redo');
  const bytes = await readFile(log);
  bytes.writeUInt8(bytes.readUInt8(600) ^ 1, 600);
  await writeFile(log, bytes);
  t.match(await ckptfs('disk', 'check', 'vm:vda', '--json'), {
    status: 4,
    objects: [{ disk: 'vm:vda', ok: false, damage: [{ file: log }] }],
  });
  await writeFile(disk, Buffer.alloc(mib, 2));
  t.match(await ckptfs('disk', 'check', 'vm@one:extra'), { status: 4, stdout: /changed since/ });
});

t.test('a checkpoint with copies of its disks needs no other file', async (t) => {
  const { ckptfs } = await withStore(t);
  const scratch = await temporaryDirectory();
  t.teardown(scratch.remove);
  const disk = join(scratch.path, 'disk.img');
  const contents = Buffer.concat([Buffer.alloc(mib, 5), Buffer.alloc(mib)]);
  await writeFile(disk, contents);
  const vm = ['--name', 'vm', '--disk', disk, '--disk', `${disk},id=extra,readonly`, '--detach'];
  t.match(await ckptfs(...run('random-writer', 'mib=1'), ...vm), { status: 0 });
  t.match(await ckptfs('checkpoint', 'vm', '--name', 'one', '--copy-disks'), { status: 0 });
  await ckptfs('stop', 'vm');
  await rm(disk);
  t.match(await ckptfs('verify', 'vm@one'), { status: 0 });
  t.match(await ckptfs('restore', 'vm@one', '--name', 'other', '--detach'), { status: 0 });
  t.match(await ckptfs('rm', 'vm@one'), { status: 0 });
  t.match(
    await ckptfs('checkpoint', 'other', '--name', 'two'),
    { status: 0 },
    'it has them by links',
  );
  await ckptfs('stop', 'other');
  for (const reference of ['other:vda', 'other@two:extra']) {
    const flat = join(scratch.path, reference);
    t.match(await ckptfs('disk', 'flatten', reference, '-o', flat), { status: 0 });
    t.ok((await readFile(flat)).equals(contents), reference);
    t.ok((await stat(flat)).blocks < 2 * (mib / 512), 'with its hole');
  }
  t.match(await ckptfs('verify', '--all'), { status: 0 });
});
