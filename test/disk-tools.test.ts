/**
 * The disks of a mount in the hands of qemu-img, beside what the guest itself reads from them: of a checkpoint
 * while the guest writes on, and of the running VM.
 */
import { createHash, randomBytes } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import t from 'tap';
import { command, noFuse } from './fs-harness.js';
import { mountStore, withStore } from './support/cli.js';
import { temporaryDirectory } from './support/guests.js';
import { GuestShell } from './support/shell.js';

t.setTimeout(300_000);

const mib = 2 ** 20;
const filesBytes = 4 * mib;
const rawBytes = 4 * mib + 512;
const disks = ['vda', 'vdb'] as const;

/** What the guest writes to its second disk: from the middle of a block of 4 KiB to that of another one. */
const patternAt = 3 * 512;
const pattern = Buffer.from(numbers(20_000));
const discarded = { at: 2 * mib + 4096 + 512, bytes: mib };

function numbers(last: number): string {
  return Array.from({ length: last }, (_, i) => `${i + 1}\n`).join('');
}

async function sha256(path: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const piece of createReadStream(path)) hash.update(piece as Buffer);
  return hash.digest('hex');
}

/** Rejects when the two, the first of them raw, do not have the same contents. */
function compare(one: string, other: string, format = 'raw'): Promise<string> {
  return command('qemu-img', 'compare', '-f', 'raw', '-F', format, one, other);
}
const identical = /Images are identical/;
const done = { status: 0 };

/** The sums of both disks as the guest reads them, from the device and not from its page cache. */
async function guestSums(shell: GuestShell): Promise<string[]> {
  const cold = 'umount /disk && sync && echo 3 > /proc/sys/vm/drop_caches';
  const text = await shell.run(`${cold} && sha256sum /dev/vda /dev/vdb`);
  return disks.map((disk) => new RegExp(`([0-9a-f]{64})\\s+/dev/${disk}`).exec(text)?.[1] ?? '');
}

t.test('qemu-img reads what the guest reads', { skip: noFuse() }, async (t) => {
  const scratch = await temporaryDirectory();
  t.teardown(scratch.remove); // after the VM, which mounts in it
  const cli = await withStore(t);
  const { store, ckptfs } = cli;
  const path = (name: string) => join(scratch.path, name);
  const parents = { vda: Buffer.alloc(filesBytes), vdb: randomBytes(rawBytes) };
  for (const disk of disks) await writeFile(path(disk), parents[disk]);
  const live = path('live');
  await mkdir(live);

  const shell = await GuestShell.boot(
    store,
    ...['--name', 'vm', '--mount', live],
    ...['--disk', path('vda'), '--disk', `${path('vdb')},mode=persistent`],
  );
  await shell.run('mke2fs -F /dev/vda && mount -t ext4 /dev/vda /disk');
  await shell.run('seq 1 10000 > /disk/numbers && seq 1 5000 > /disk/gone && rm /disk/gone');
  await shell.run('seq 1 20000 | dd of=/dev/vdb bs=512 seek=3 conv=notrunc');
  await shell.run(`blkdiscard -o ${discarded.at} -l ${discarded.bytes} /dev/vdb`);
  const sums = await guestSums(shell);
  t.match(await ckptfs('checkpoint', 'vm', '--name', 'one'), done);

  // It writes on: what follows is of the checkpoint all the same.
  await shell.run('mount -t ext4 /dev/vda /disk && seq 1 20000 > /disk/numbers');
  await shell.run('seq 5 500 | dd of=/dev/vdb bs=512 seek=1 conv=notrunc');
  const later = await guestSums(shell);

  const expected = Buffer.from(parents.vdb);
  pattern.copy(expected, patternAt);
  expected.fill(0, discarded.at, discarded.at + discarded.bytes);
  t.equal(sums[1], createHash('sha256').update(expected).digest('hex'), 'the pattern is there');

  const mount = await mountStore(t, cli);
  for (const [i, disk] of disks.entries()) {
    const then = join(mount, 'vms/vm/checkpoints/one/disks', disk);
    const now = join(live, 'vms/vm/disks', disk);
    const [flat, qcow2, back] = [path('flat'), path('qcow2'), path('back')];
    t.equal(await sha256(then), sums[i], `${disk}: the guest's checksum`);
    t.equal(await sha256(now), later[i], `${disk}: the guest's checksum, now`);
    await t.rejects(compare(now, then), { code: 1, stdout: /mismatch/ }, `${disk}: it wrote on`);

    t.match(await ckptfs('disk', 'flatten', `vm@one:${disk}`, '-o', flat, '--force'), done);
    t.match(await compare(then, flat), identical, `${disk}: as flattened`);
    for (const shown of [then, now]) {
      await command('qemu-img', 'convert', '-f', 'raw', '-O', 'qcow2', shown, qcow2);
      await command('qemu-img', 'check', '-f', 'qcow2', qcow2);
      t.match(await compare(shown, qcow2, 'qcow2'), identical, `${disk}: as qcow2`);
      await command('qemu-img', 'convert', '-f', 'qcow2', '-O', 'raw', qcow2, back);
      t.equal(await sha256(back), (shown === then ? sums : later)[i], `${disk}: there and back`);
    }
  }

  const files = join(mount, 'vms/vm/checkpoints/one/disks/vda');
  await command('e2fsck', '-fn', files);
  t.equal(await command('debugfs', '-R', 'cat /numbers', files), numbers(10_000));
  t.ok((await readFile(path('vda'))).equals(parents.vda), 'the parent stays as it was');
});
