/**
 * Linux, interrupted: checkpointed live on 2 harts with a disk, its VM killed, restored lazily and eagerly, it
 * ends with the sum of a run that nothing interrupted (requirements A1 to A3, C1). Its disk, as it was in the
 * pause, is a filesystem that replays its journal.
 */
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { copyFile, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t, { type Test } from 'tap';
import { diskLayers, findCheckpoint, openCheckpoint } from '../src/checkpoint/checkpoints.js';
import { verifyCheckpoint } from '../src/checkpoint/verify.js';
import { openDisk } from '../src/native.js';
import type { VmConfigInput } from '../src/types.js';
import { Vm } from '../src/vmm/vm.js';
import { writeAll } from './support/copy.js';
import { boot, linuxGuest, temporaryDirectory, temporaryStore, Watch } from './support/guests.js';

t.setTimeout(600_000);

const mib = 2 ** 20;
const rounds = 24;
const passed = /ckptfs-guest: (PASS [^\r\n]+)\r?\n/;
const main = fileURLToPath(new URL('../src/cli/main.js', import.meta.url));

async function linux(t: Test, name: string, mode: 'persistent' | 'nonpersistent') {
  const scratch = await temporaryDirectory();
  t.teardown(scratch.remove);
  const disk = join(scratch.path, 'disk.img');
  await copyFile(linuxGuest.disk, disk);
  const cmdline = (await readFile(linuxGuest.cmdline, 'utf8')).trim();
  const config: VmConfigInput = {
    name,
    kernel: linuxGuest.kernel,
    initrd: linuxGuest.initrd,
    append: `${cmdline} ckptfs.mode=writer ckptfs.mib=32 ckptfs.rounds=${rounds}`,
    memoryBytes: 128 * mib,
    cpus: 2,
    disks: [{ path: disk, mode }],
  };
  return { config, disk, scratch: scratch.path };
}

for (const [mode, drain] of [
  ['nonpersistent', 'drain'],
  ['nonpersistent', 'in-flight'],
  ['persistent', 'drain'],
] as const) {
  t.test(`a Linux guest with a ${mode} disk, its requests: ${drain}`, async (t) => {
    const { store, remove } = await temporaryStore();
    t.teardown(remove);
    const straight = await linux(t, 'straight', mode);
    const plain = await boot(store, straight.config);
    t.teardown(() => plain.vm.close());
    const [, expected] = await plain.watch.printed(passed);
    t.same(await plain.watch.ended(), { kind: 'shutdown', reason: 0 });

    const { config, scratch } = await linux(t, 'linux', mode);
    const first = await boot(store, config);
    t.teardown(() => first.vm.close());
    await first.watch.printed(/round 8 journal/);
    const summary = await first.vm.checkpoint({ name: 'middle', drain, wait: true });
    t.ok((summary.blocks?.vcpu ?? 0) > 0, 'vCPUs saved blocks that they were about to write');
    await first.watch.printed(/round 9 journal/);
    await first.vm.close(); // as if its plug were pulled

    const entry = await findCheckpoint(store, 'linux@middle');
    t.same(await verifyCheckpoint(entry.directory), []);
    for (const lazy of [true, false]) {
      const how = lazy ? 'lazy' : 'eager';
      const vm = await Vm.restore(store, entry, { name: `again-${how}`, lazy });
      t.teardown(() => vm.close());
      const watch = new Watch(vm);
      await vm.start();
      const [, found] = await watch.printed(passed);
      t.equal(found, expected, `${how}: memory and journal as if nothing had been`);
      t.notMatch(watch.text, /round 7 journal/, `${how}: it went on from the middle`);
      t.same(await watch.ended(), { kind: 'shutdown', reason: 0 });
    }

    // The disk as it was then: the guest had it mounted, so its journal is replayed first.
    const disk = await openDisk(diskLayers(await openCheckpoint(entry.directory), 'vda'));
    const copy = join(scratch, 'copy.img');
    await writeAll(disk, copy);
    disk.close();
    const replay = spawnSync('e2fsck', ['-y', '-E', 'journal_only', copy]);
    t.ok((replay.status ?? 8) <= 1, 'e2fsck replays its journal'); // 1: it changed something
    t.equal(spawnSync('e2fsck', ['-fn', copy]).status, 0, 'and finds the filesystem clean');
    const size = Number(/Size: (\d+)/.exec(debugfs(copy, 'stat journal.0'))?.[1] ?? 0);
    t.ok(size > 0 && size < rounds * 16 * 64, 'the journal has its records until the pause');
  });
}

function debugfs(image: string, command: string): string {
  return execFileSync('debugfs', ['-R', command, image], { encoding: 'utf8', stdio: 'pipe' });
}

t.test('a VM process killed with SIGKILL is restored in place', async (t) => {
  const { store, remove } = await temporaryStore();
  t.teardown(remove);
  const { config } = await linux(t, 'killed', 'nonpersistent');
  const child = spawn(
    process.execPath,
    [
      ...[
        main,
        '--store',
        store.root,
        'run',
        '--name',
        'killed',
        '--memory',
        '128M',
        '--cpus',
        '2',
      ],
      ...[
        '--kernel',
        linuxGuest.kernel,
        '--initrd',
        linuxGuest.initrd,
        '--append',
        config.append ?? '',
      ],
      ...['--disk', config.disks?.[0]?.path ?? ''],
    ],
    { stdio: ['pipe', 'pipe', 'inherit'] },
  );
  let text = '';
  await new Promise<void>((resolve) => {
    child.stdout.setEncoding('utf8').on('data', (piece: string) => {
      text += piece;
      if (text.includes('round 4 journal')) resolve();
    });
  });
  execFileSync(process.execPath, [
    ...[main, '--store', store.root, '-q', 'checkpoint', 'killed', '--name', 'alive'],
  ]);
  child.kill('SIGKILL');
  await once(child, 'exit');

  const vm = await Vm.restore(store, await findCheckpoint(store, 'killed@alive'), { lazy: true });
  t.teardown(() => vm.close());
  const watch = new Watch(vm);
  await vm.start();
  const [, found] = await watch.printed(passed);
  t.match(found, new RegExp(`rounds=${rounds} `));
  t.same(await watch.ended(), { kind: 'shutdown', reason: 0 });
});
