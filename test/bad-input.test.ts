/**
 * Bad input: one clear line that names the thing and the remedy, the right exit code, nothing half-made left
 * behind, no damage to what was there.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { readdir, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t, { type Test } from 'tap';
import { findCheckpoint } from '../src/checkpoint/checkpoints.js';
import { walkTree } from '../src/checkpoint/files.js';
import { Store } from '../src/checkpoint/store.js';
import { verifyCheckpoint } from '../src/checkpoint/verify.js';
import {
  bareConfig,
  bareGuest,
  boot,
  temporaryDirectory,
  temporaryStore,
} from './support/guests.js';

t.setTimeout(300_000);

const mib = 2 ** 20;
const main = fileURLToPath(new URL('../src/cli/main.js', import.meta.url));
const noMount = process.getuid?.() === 0 ? false : 'mounting a tmpfs needs root';

/** Runs a command that must fail: its exit code and its one line. */
function failing(store: Store, args: string[]): { status: number | null; line: string } {
  const { status, stderr } = spawnSync(process.execPath, [main, '--store', store.root, ...args], {
    encoding: 'utf8',
    input: '',
    env: { ...process.env, DEBUG: undefined },
    timeout: 60_000,
  });
  return { status, line: stderr };
}

function isClear(t: Test, found: ReturnType<typeof failing>, status: number, what: RegExp): void {
  t.equal(found.status, status, `exit code for ${what}`);
  t.match(found.line, what);
  t.match(found.line, /^ckptfs: [^\n]+\n$/, 'one line');
}

/** A store and a directory for disks, gone with the test. */
async function places(t: Test): Promise<{ store: Store; file: (name: string) => string }> {
  const { store, remove } = await temporaryStore();
  t.teardown(remove);
  const scratch = await temporaryDirectory();
  t.teardown(scratch.remove);
  return { store, file: (name) => join(scratch.path, name) };
}

/** A running VM with a disk of 1 MiB. */
async function bootWithDisk(t: Test, name: string, mode: 'persistent' | 'nonpersistent') {
  const { store, file } = await places(t);
  const disk = file('disk.img');
  await writeFile(disk, Buffer.alloc(mib));
  const { vm } = await boot(
    store,
    bareConfig('random-writer', 'mib=1', {
      name,
      memoryBytes: 8 * mib,
      disks: [{ path: disk, mode }],
    }),
  );
  t.teardown(() => vm.close());
  return { store, disk, vm };
}

t.test('what a VM cannot be made of', async (t) => {
  const { store, file } = await places(t);
  await writeFile(file('text'), 'this is no kernel\n'.repeat(100));
  await writeFile(file('odd.img'), Buffer.alloc(1000));
  const hello = ['--kernel', bareGuest('hello')];
  const run = (...args: string[]) => failing(store, ['run', '--name', 'vm', ...args]);

  isClear(t, run('--kernel', file('none')), 10, /kernel .*none does not exist/);
  isClear(t, run('--kernel', file('.')), 2, /kernel .* is not a regular file/);
  isClear(t, run('--kernel', file('text')), 2, /text is neither .* Image nor an ELF/);
  isClear(t, run('--kernel', '/bin/true'), 2, /not a 64-bit little-endian RISC-V/);
  isClear(t, run(...hello, '--initrd', file('none')), 10, /initramfs .*none does not exist/);
  isClear(t, run(...hello, '--memory', '2M'), 2, /too small .* --memory/);
  isClear(t, run(...hello, '--memory', '16777000'), 2, /not a whole number of .* --memory/);
  isClear(t, run(...hello, '--disk', file('none')), 10, /disk .*none does not exist/);
  isClear(t, run(...hello, '--disk', file('odd.img')), 2, /odd\.img .*sector/);
  isClear(t, run('--name', 'a/b', ...hello), 2, /VM name/);
  t.same(await store.listVms(), [], 'nothing is left');
});

t.test('a name that is taken, a disk that is in use', async (t) => {
  const { store, disk, vm } = await bootWithDisk(t, 'taken', 'persistent');
  const kernel = ['--kernel', bareGuest('hello'), '--memory', '8M'];
  isClear(
    t,
    failing(store, ['run', '--name', 'taken', ...kernel]),
    1,
    /taken exists already; choose/,
  );
  isClear(
    t,
    failing(store, ['run', '--name', 'other', ...kernel, '--disk', disk]),
    11,
    /disk\.img is in use/,
  );
  t.same(await store.listVms(), ['taken'], 'the failed VM is gone');

  await vm.checkpoint({ name: 'one', codec: 'lz4', wait: true });
  isClear(t, failing(store, ['restore', 'taken@one']), 11, /taken is running/);
  isClear(t, failing(store, ['restore', 'taken@none']), 10, /no checkpoint taken@none/);
  isClear(t, failing(store, ['show', 'ffff0000']), 10, /ffff0000/);
  isClear(t, failing(store, ['pause', 'nobody']), 10, /nobody/);
  t.equal(vm.status().state, 'running', 'the running VM is unharmed');
});

t.test('a checkpoint with each of its files damaged or cut short', async (t) => {
  const { store, vm } = await bootWithDisk(t, 'vm', 'nonpersistent');
  await vm.checkpoint({ name: 'good', codec: 'lz4', wait: true });
  const paths = [...(await walkTree(store.checkpointDirectory('vm', 'good'))).files.keys()];
  const segments = paths.filter((path) => /\.(hot|cold)$/.test(path));
  // The redo log comes last: it is shared with all checkpoints that follow.
  paths.sort((a, b) => Number(a.endsWith('.redo')) - Number(b.endsWith('.redo')));
  for (const path of paths) {
    const kind = path.replace(/^[0-9a-f]{32}/, 'segment').replaceAll('/', '-');
    await vm.checkpoint({ name: kind, full: true, wait: true });
    const directory = store.checkpointDirectory('vm', kind);
    const files = [...(await walkTree(directory)).files];
    // Which segments there are depends on what the guest wrote meanwhile.
    const alike = segments.includes(path)
      ? /\.(hot|cold)$/
      : new RegExp(`^${path.replaceAll('.', '\\.')}$`);
    const [victim = '', bytes = 0] = files.find(([name]) => alike.test(name)) ?? [];
    await truncate(join(directory, victim), bytes - 1);
    isClear(
      t,
      failing(store, ['restore', `vm@${kind}`, '--name', 'copy', '--eager']),
      4,
      /damaged/,
    );
    t.equal(failing(store, ['-q', 'verify', `vm@${kind}`]).status, 4, `verify: ${victim}`);
    t.notOk(await store.hasVm('copy'), 'nothing is left of the restore');
  }
  await vm.close();
  const good = await findCheckpoint(store, 'vm@good');
  t.ok(good.manifest, 'the others are as they were');
});

t.test(
  'a store that is full: the checkpoint fails, the guest goes on',
  { skip: noMount },
  async (t) => {
    const scratch = await temporaryDirectory();
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=6m', 'ckptfs-test', scratch.path]);
    t.teardown(async () => {
      execFileSync('umount', ['-l', scratch.path]);
      await scratch.remove();
    });
    const store = await Store.open(join(scratch.path, 'store'), { create: true });
    const { vm } = await boot(
      store,
      bareConfig('random-writer', 'harts=2 mib=12', { name: 'vm', cpus: 2, memoryBytes: 24 * mib }),
    );
    t.teardown(() => vm.close());
    // Long enough for the writers to fill memory with what LZ4 cannot shrink.
    while (vm.status().instructions < 50_000_000) await new Promise((r) => setTimeout(r, 10));
    await t.rejects(vm.checkpoint({ name: 'big', codec: 'lz4', wait: true }), { code: 'NO_SPACE' });
    t.same(await readdir(store.checkpointsDirectory('vm')), [], 'nothing half-made is left');
    const { instructions } = vm.status();
    while (vm.status().instructions < instructions + 1_000_000) {
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    t.equal(vm.status().state, 'running', 'the guest goes on');
    t.ok(vm.status().mappings < 10, 'no trace is left');
  },
);

t.test('a store that cannot be written', { skip: noMount }, async (t) => {
  const scratch = await temporaryDirectory();
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'ckptfs-test', scratch.path]);
  t.teardown(async () => {
    execFileSync('umount', ['-l', scratch.path]);
    await scratch.remove();
  });
  const store = await Store.open(join(scratch.path, 'store'), { create: true });
  execFileSync('mount', ['-o', 'remount,ro', scratch.path]);
  isClear(
    t,
    failing(store, ['run', '--kernel', bareGuest('hello'), '--memory', '8M']),
    1,
    /read-only/,
  );
});

t.test('a verified checkpoint stays whole beside a failed one', async (t) => {
  const { store, remove } = await temporaryStore();
  t.teardown(remove);
  const { vm } = await boot(
    store,
    bareConfig('random-writer', 'mib=4', { name: 'vm', memoryBytes: 16 * mib }),
  );
  t.teardown(() => vm.close());
  await vm.checkpoint({ name: 'one', codec: 'none', wait: true });
  await t.rejects(vm.checkpoint({ name: 'one', codec: 'none', wait: true }), { code: 'EXISTS' });
  const cancelled = new AbortController();
  const save = vm.checkpoint(
    { name: 'two', codec: 'none', wait: true },
    { signal: cancelled.signal, onResumed: () => cancelled.abort() },
  );
  await t.rejects(save, { code: 'CANCELLED' });
  t.same(await readdir(store.checkpointsDirectory('vm')), ['one']);
  t.same(await verifyCheckpoint(store.checkpointDirectory('vm', 'one')), []);
});
