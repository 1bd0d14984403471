/**
 * The commands of docs/tools.md, run as they stand there: what comes back out of tar, rsync, restic and borg is what
 * the checkpoints hold and can be restored; a loop mount and QEMU read the files that the guest had written.
 */
import { spawn } from 'node:child_process';
import { mkdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { noFuse } from './fs-harness.js';
import { linuxGuest } from './support/guests.js';
import { missing, Shell, tool, transportsUnderTest } from './support/tools.js';
import { checkpointNames, makeWeb, numbers, type Web } from './support/web.js';

t.setTimeout(600_000);

const document = 'tools.md';
const notRoot = process.getuid?.() === 0 ? false : 'not root: no loop mounts';
const bootLimitMs = 120_000;
/** Of busybox, which asks the terminal where its cursor is. */
// eslint-disable-next-line no-control-regex -- an escape sequence begins with one
const prompt = / # (\u001b\[6n)?$/;

function suite(t: Test, web: Web, shell: Shell): void {
  const { store } = web.cli;

  /** The files of the checkpoints as some backup has them, compared with those of the store. */
  async function holdsImages(t: Test, backup: string): Promise<void> {
    for (const name of checkpointNames) {
      const checkpoint = join(backup, 'vms/web/checkpoints', name);
      await tool('diff', '-r', join(checkpoint, 'image'), store.checkpointDirectory('web', name));
      t.equal(await shell.run(`ls ${checkpoint}`), 'device-state.json\nimage\nmanifest.json\n');
    }
    await tool('cmp', join(backup, 'vms/web/config.json'), store.configFile('web'));
    // Hard links within the backup, as in the store.
    const sizes = async (...directories: string[]) =>
      Number.parseInt((await tool('du', '-ck', ...directories)).split('\n').at(-2) ?? '', 10);
    const images = checkpointNames.map((name) => `${backup}/vms/web/checkpoints/${name}/image`);
    const [whole, apart] = [await sizes(...images), await sizes('-l', ...images)];
    t.ok(whole < apart, `${whole} KiB with shared files counted once, ${apart} without`);
  }

  t.test('tar', { skip: missing('tar') }, async (t) => {
    await shell.runSection(document, 'tar');
    await holdsImages(t, join(shell.home, 'restored/tar'));
  });

  t.test('rsync', { skip: missing('rsync') }, async (t) => {
    await shell.runSection(document, 'rsync');
    await holdsImages(t, join(shell.home, 'restored/rsync'));
  });

  t.test('restic', { skip: missing('restic') }, async (t) => {
    const text = await shell.runSection(document, 'restic');
    t.match(text, /no errors were found/);
    await holdsImages(t, join(shell.home, `restored/restic${shell.home}/ckpt`));
    const again = await shell.run(`
      export RESTIC_REPOSITORY=~/restic RESTIC_PASSWORD=secret
      restic backup --exclude "$HOME/ckpt/vms/*/checkpoints/*/memory*" --exclude "$HOME/ckpt/vms/*/checkpoints/*/disks" ~/ckpt/vms
    `);
    t.match(
      again,
      /Files: +0 new, +[01] changed, +[1-9]\d* unmodified/,
      'the next one has only status.json to read',
    );
  });

  t.test('borg', { skip: missing('borg') }, async (t) => {
    await shell.runSection(document, 'borg');
    await holdsImages(t, join(shell.home, 'restored/borg'));
    const again = await shell.run(`
      cd ~/ckpt
      BORG_REPO=~/borg borg create --json ::again vms/web/checkpoints/*/image
    `);
    const { archive } = JSON.parse(again) as { archive: { stats: Record<string, number> } };
    const { original_size: bytes = 0, deduplicated_size: newBytes = 0 } = archive.stats;
    t.ok(bytes > 1 << 20 && newBytes < bytes / 50, `${newBytes} new bytes of ${bytes}`);
  });

  t.test('back into a store', { skip: missing('tar') }, async (t) => {
    const text = await shell.runSection(document, 'Back into a store');
    t.match(text, /web@before: whole\n/);
    t.match(text, /web is running/);
    const ram = join(shell.home, 'ram');
    await shell.run(`ckptfs export --store ~/store web@before -o ${ram}`);
    await tool('cmp', ram, web.expected('before', 'memory'));
  });

  t.test('a loop mount and debugfs', { skip: notRoot || missing('debugfs') }, async (t) => {
    const text = await shell.runSection(document, 'A disk by loop mount');
    t.match(text, / 48894 .* numbers\n10000 .*numbers\n10000\n$/);
    const cat = `debugfs -R 'cat /numbers' ~/ckpt/vms/web/checkpoints/after/disks/vda`;
    t.equal(await shell.run(cat), numbers('after'));
  });

  t.test('qemu-img', { skip: missing('qemu-img') }, async (t) => {
    const text = await shell.runSection(document, 'A disk for QEMU');
    t.match(text, /virtual size: 16 MiB/);
    t.match(text, /Images are identical/);
    const other = 'qemu-img compare -f raw -F raw';
    const disk = (name: string) => `~/ckpt/vms/web/checkpoints/${name}/disks/vda`;
    t.match(await shell.run(`${other} ${disk('before')} ${disk('after')} || true`), /mismatch/);
  });

  t.test(
    'QEMU boots over the disk',
    { skip: missing('qemu-system-riscv64', 'qemu-img') },
    async (t) => {
      const drive = join(shell.home, 'ckpt/vms/web/checkpoints/before/disks/vda');
      for (const file of [`${drive},format=raw,snapshot=on`, `${shell.home}/web.qcow2`]) {
        const said = await bootQemu(file, [
          'sha256sum /disk/numbers',
          'echo changed > /disk/numbers; sync; cat /disk/numbers',
        ]);
        const [sum] = (await shell.run(`debugfs -R 'cat /numbers' ${drive} | sha256sum`)).split(
          ' ',
        );
        t.match(said, `${sum}  /disk/numbers`, 'it reads what the first guest has written');
        t.match(said, /^changed\r?$/m, 'and writes');
      }
      await tool('cmp', drive, web.expected('before', 'disks/vda'));
    },
  );
}

/** Boots the Linux guest in QEMU over a disk, types the commands, and resolves with what it printed to its end. */
async function bootQemu(drive: string, commands: string[]): Promise<string> {
  const cmdline = (await readFile(linuxGuest.cmdline, 'utf8')).trim();
  const child = spawn(
    'timeout',
    [
      ...['--kill-after=1', String(bootLimitMs / 1000), 'qemu-system-riscv64'],
      ...['-M', 'virt', '-m', '128M', '-nographic', '-no-reboot', '-monitor', 'none'],
      ...['-kernel', linuxGuest.kernel, '-initrd', linuxGuest.initrd],
      ...['-append', `${cmdline} ckptfs.mode=shell`],
      ...['-drive', `file=${drive},if=none,id=vda`, '-device', 'virtio-blk-device,drive=vda'],
    ],
    { stdio: ['pipe', 'pipe', 'pipe'] },
  );
  let text = '';
  child.stderr.on('data', (piece: Buffer) => (text += piece.toString()));
  for await (const piece of child.stdout) {
    text += String(piece);
    if (!prompt.test(text)) continue;
    child.stdin.write(`${commands.shift() ?? 'exit'}\n`);
  }
  return text;
}

t.test('docs/tools.md', { skip: noFuse() || missing('mke2fs') }, async (t) => {
  const web = await makeWeb(t);
  for (const transport of transportsUnderTest()) {
    const name = transport ?? 'the default transport';
    await t.test(`over ${name}`, async (t) => {
      const home = web.path(`home-${transport ?? 'default'}`);
      await mkdir(home);
      const shell = await Shell.open(home, web.cli.store.root, transport);
      t.teardown(async () => {
        await shell.run('umount ~/files || true; ckptfs umount ~/ckpt || umount -l ~/ckpt || true');
        // What was copied may not be written by its owner either.
        await tool('chmod', '-R', 'u+w', home);
      });
      t.match(await shell.runSection(document, 'Mount'), /disks\nimage\nmanifest.json\nmemory\n/);
      suite(t, web, shell);
    });
  }
});
