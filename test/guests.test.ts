/**
 * The guest programs end here as they end on another machine: the sums below are what qemu-system-riscv64 7.2
 * (`-M virt`) gave for the same guests with the same options. Linux boots on 1 and 2 harts.
 */
import { copyFile, readFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import t, { type Test } from 'tap';
import type { GuestExit } from '../src/native.js';
import type { VmConfigInput } from '../src/types.js';
import {
  bareConfig,
  boot,
  linuxGuest,
  temporaryDirectory,
  temporaryStore,
} from './support/guests.js';

const shutdown: GuestExit = { kind: 'shutdown', reason: 0 };

/** Runs a guest to its end: what it printed, and how it ended. */
async function runToEnd(
  t: Test,
  config: VmConfigInput,
): Promise<{ text: string; exit: GuestExit }> {
  const { store, remove } = await temporaryStore();
  t.teardown(remove);
  const { vm, watch } = await boot(store, { name: 'guest', ...config });
  t.teardown(() => vm.close());
  const exit = await watch.ended();
  return { text: watch.text, exit };
}

/** Runs the Linux guest with options of test/guests/linux/init.c, on a copy of the disk image. */
async function runLinux(t: Test, cpus: number, options: string) {
  const { path, remove } = await temporaryDirectory();
  t.teardown(remove);
  const disk = join(path, 'disk.img');
  await copyFile(linuxGuest.disk, disk);
  const commandLine = await readFile(join(dirname(linuxGuest.kernel), 'cmdline'), 'utf8');
  return runToEnd(t, {
    kernel: linuxGuest.kernel,
    initrd: linuxGuest.initrd,
    append: `${commandLine.trim()} ${options}`,
    memoryBytes: 128 * 2 ** 20,
    cpus,
    disks: [{ id: 'vda', path: disk, mode: 'persistent' }],
  });
}

t.test('hello', async (t) => {
  const { text, exit } = await runToEnd(t, bareConfig('hello', ''));
  t.match(text, /^ckptfs-bare: hello\r?\n$/);
  t.same(exit, shutdown);
});

t.test('exit', async (t) => {
  const { exit } = await runToEnd(t, bareConfig('exit', 'reason=1'));
  t.same(exit, { kind: 'shutdown', reason: 1 });
});

for (const { harts, options, sum } of [
  { harts: 1, options: '', sum: 'ef11ee798bb51d76' },
  { harts: 2, options: 'steps=200000 harts=2', sum: 'a345c2014a2accf2' },
]) {
  t.test(`count on ${harts} harts`, async (t) => {
    const { text, exit } = await runToEnd(t, bareConfig('count', options, { cpus: harts }));
    t.match(text, `PASS sum=${sum}`);
    t.same(exit, shutdown);
  });
}

t.test('integer-loop', async (t) => {
  const { text, exit } = await runToEnd(t, bareConfig('integer-loop', 'rounds=20000'));
  t.match(text, /instructions=\d+ ticks=\d+ crc=a533a940\r?\n/);
  t.same(exit, shutdown);
});

for (const { cpus, sum } of [
  { cpus: 1, sum: '1dab341690c376eb' },
  { cpus: 2, sum: '85ed3f41361bb7e6' },
]) {
  t.test(`Linux on ${cpus} harts, with a disk`, async (t) => {
    const { text, exit } = await runLinux(
      t,
      cpus,
      'ckptfs.mode=writer ckptfs.rounds=3 ckptfs.mib=8',
    );
    t.match(text, /ckptfs-guest: disk mounted/);
    t.match(text, `writer workers=${cpus} mib=8 rounds=3`);
    t.match(text, `PASS rounds=3 journal=24 sum=${sum}`);
    t.same(exit, shutdown);
  });
}

t.test('Linux that found something wrong does not end as a success', async (t) => {
  const { text, exit } = await runLinux(t, 1, 'ckptfs.mode=writer ckptfs.mib=0');
  t.match(text, /ckptfs-guest: FAIL options/);
  t.notSame(exit, shutdown);
});
