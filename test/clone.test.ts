/**
 * Clones on the same host: a second VM goes on at once from where the first is, and neither disturbs the other. Its
 * guest knows that it is of another generation.
 */
import { copyFile, readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import t, { type Test } from 'tap';
import {
  findCheckpoint,
  listCheckpointNames,
  openCheckpoint,
} from '../src/checkpoint/checkpoints.js';
import type { Store } from '../src/checkpoint/store.js';
import { cloneVm } from '../src/vmm/clone.js';
import { Vm } from '../src/vmm/vm.js';
import { endless, withStore } from './support/cli.js';
import {
  boot,
  linuxGuest,
  sh,
  shellConfig,
  temporaryDirectory,
  temporaryStore,
  Watch,
} from './support/guests.js';

t.setTimeout(600_000);

const forked = 'crng reseeded due to virtual machine fork';

/** A Linux guest with a shell on its console and a disk. */
async function shell(t: Test, mode: 'persistent' | 'nonpersistent') {
  const { store, remove } = await temporaryStore();
  t.teardown(remove);
  const scratch = await temporaryDirectory();
  t.teardown(scratch.remove);
  const disk = join(scratch.path, 'disk.img');
  await copyFile(linuxGuest.disk, disk);
  const config = await shellConfig({ name: 'first', cpus: 2, disks: [{ path: disk, mode }] });
  const { vm, watch } = await boot(store, config);
  t.teardown(() => vm.close());
  await watch.printed(/disk mounted[^]*# /);
  await sh(vm, watch, 'busybox --install -s /bin');
  return { store, vm, watch };
}

async function started(t: Test, vm: Vm): Promise<Watch> {
  t.teardown(() => vm.close());
  const watch = new Watch(vm);
  await vm.start();
  return watch;
}

for (const mode of ['nonpersistent', 'persistent'] as const) {
  t.test(`a clone of a Linux guest with a ${mode} disk`, async (t) => {
    const { store, vm, watch } = await shell(t, mode);
    await vm.serve();
    const forks = (who: Vm, at: Watch) => sh(who, at, `dmesg | grep -c '${forked}'`);
    const told = async (who: Vm, at: Watch): Promise<number> => {
      const row = await sh(who, at, 'grep vmgenid /proc/interrupts');
      return row
        .split(/\s+/)
        .slice(1, 3)
        .map(Number)
        .reduce((sum, n) => sum + n, 0);
    };
    const dates = async (who: Vm, at: Watch, command: string): Promise<boolean> => {
      const [before, shown] = [Date.now() / 1000 - 2, Number(await sh(who, at, command))];
      return before < shown && shown < Date.now() / 1000 + 2;
    };
    const clock = 'cat /sys/class/rtc/rtc0/since_epoch';
    t.ok(await dates(vm, watch, clock), "its clock shows the host's time");
    t.ok(await dates(vm, watch, 'date +%s'), 'and the guest has it from the start');
    t.equal(await forks(vm, watch), '0');
    t.equal(await told(vm, watch), 0, 'a guest that boots is told nothing');
    await sh(vm, watch, 'echo both > /disk/both; sync');

    const { vm: clone, taken } = await cloneVm(store, 'first');
    const cloneWatch = await started(t, clone);
    t.equal(clone.name, 'first-clone');
    t.ok((taken?.pauseUs ?? 0) > 0, 'a checkpoint was taken for it');
    t.equal(await told(clone, cloneWatch), 1, 'it has an interrupt of its generation');
    t.equal(await forks(clone, cloneWatch), '1', 'and takes its random numbers afresh');
    t.equal(await forks(vm, watch), '0', 'the first goes on as it was');
    t.equal(await told(vm, watch), 0);

    // What either writes to its disk is its own.
    await sh(clone, cloneWatch, 'echo clone > /disk/clone; echo changed > /disk/both; sync');
    await sh(vm, watch, 'echo first > /disk/first; sync');
    for (const [who, at, files] of [
      [vm, watch, 'both first lost+found: both first'],
      [clone, cloneWatch, 'both clone lost+found: changed clone'],
    ] as const) {
      await sh(who, at, 'umount /disk; mount -t ext4 /dev/vda /disk'); // as the disk has it, not the cache
      const list = await sh(who, at, 'echo $(ls /disk): $(cat /disk/[bcf]*)');
      t.equal(list, files);
    }
    await clone.checkpoint({ name: 'own' });
    const [one, other] = [
      await findCheckpoint(store, `first@${taken?.name}`),
      await findCheckpoint(store, 'first-clone@own'),
    ];
    t.equal(
      other.manifest?.parentId,
      one.manifest?.id,
      'its next checkpoint is an increment of it',
    );
    t.not(await generationIn(one.directory), await generationIn(other.directory));
    await vm.checkpoint({ name: 'later' });
    const { directory } = await findCheckpoint(store, 'first@later');
    t.equal(await generationIn(directory), await generationIn(one.directory));

    // A VM that goes back is of another generation too, each time; and so is a clone of a clone.
    await vm.close();
    const numbers = new Set<string>();
    for (let round = 0; round < 2; round++) {
      const again = await Vm.restore(store, one, { lazy: round === 0 });
      const at = await started(t, again);
      numbers.add(await sh(again, at, 'head -c 16 /dev/urandom | md5sum'));
      t.equal(await forks(again, at), '1');
      t.ok(await dates(again, at, clock), 'the clock has gone on');
      await again.close();
    }
    await clone.serve();
    const { vm: third } = await cloneVm(store, 'first-clone', { name: 'third' });
    const thirdWatch = await started(t, third);
    t.equal(await forks(third, thirdWatch), '2');
    for (const [who, at] of [
      [third, thirdWatch],
      [clone, cloneWatch],
    ] as const) {
      numbers.add(await sh(who, at, 'head -c 16 /dev/urandom | md5sum'));
    }
    t.equal(numbers.size, 4, 'no two of them have the same random numbers');
  });
}

t.test('a Linux guest goes on from wherever in its boot it was', async (t) => {
  const { store, remove } = await temporaryStore();
  t.teardown(remove);
  const { vm, watch } = await boot(store, await shellConfig({ name: 'web', cpus: 2 }));
  t.teardown(() => vm.close());
  const names: string[] = [];
  const prompt = watch.printed(/# /).then(() => true);
  const booted = (ms: number): Promise<boolean> => Promise.race([prompt, sleep(ms, false)]);
  while (!(await booted(50))) {
    // Suspended, so that however long a save takes here the boot does not go on in it.
    const { name } = await vm.checkpoint({ suspend: true });
    if (!(await booted(0))) names.push(name);
    vm.resume();
  }
  await vm.close();
  t.ok(names.length > 3, `${names.length} checkpoints until there was a shell`);
  for (const name of names) {
    const again = await Vm.restore(store, await findCheckpoint(store, `web@${name}`), {
      lazy: true,
    });
    const at = await started(t, again);
    await at.printed(/# /);
    again.consoleInput(Buffer.from('echo up$((40 + 2))\n'));
    await at.printed(/up42/);
    await again.close();
  }
});

async function generationIn(directory: string): Promise<string> {
  const { deviceState } = await openCheckpoint(directory);
  const state = JSON.parse(deviceState) as { devices: { generation: { id: string } } };
  return state.devices.generation.id;
}

/** Inodes of the redo logs of a VM's disk. */
async function logsOf(store: Store, vm: string): Promise<number[]> {
  const directory = store.diskDirectory(vm, 'vda');
  const names = (await readdir(directory)).filter((name) => name.endsWith('.redo')).sort();
  return Promise.all(names.map(async (name) => (await stat(join(directory, name))).ino));
}

t.test('ckptfs clone', async (t) => {
  const { store, ckptfs } = await withStore(t);
  const disk = join(store.root, '..', 'disk.img');
  await copyFile(linuxGuest.disk, disk);
  const json = async (...args: string[]) => {
    const { status, stderr, objects } = await ckptfs(...args, '--json');
    t.equal(status, 0, stderr);
    return objects.at(-1);
  };
  await ckptfs(...endless, '--disk', disk, '--name', 'w', '--detach');
  const cloned = await json('clone', 'w', '--detach');
  t.match(cloned, { type: 'result', vm: 'w-clone', state: 'running', completeMs: Number });
  const [name = ''] = await listCheckpointNames(store, 'w');
  t.match(await findCheckpoint(store, `w@${name}`), { manifest: { id: cloned?.checkpointId } });
  t.match(await json('clone', 'w', '--name', 'c2', '--in-flight', '--detach'), { vm: 'c2' });
  t.match(await json('clone', `w@${name}`, '--detach'), { vm: 'w-clone2' }, 'of a checkpoint');
  const first = await logsOf(store, 'w');
  t.equal(first.length, 3, 'a log for each checkpoint');
  for (const [vm, shared] of [
    ['w-clone', 1],
    ['c2', 2],
    ['w-clone2', 1],
  ] as const) {
    const logs = await logsOf(store, vm);
    t.same(logs.slice(0, -1), first.slice(0, shared), `${vm} shares the sealed logs`);
    t.notOk(first.includes(logs.at(-1) ?? 0), 'and writes to one of its own');
    t.match(await json('info', vm), { state: 'running' });
  }
  t.match(await json('info', 'w'), { state: 'running' });

  for (const [args, status, why] of [
    [['clone', 'w', '--name', 'c2'], 1, /VM c2 exists already/],
    [['clone', 'w', '--name', 'w'], 1, /VM w exists already/],
    [['clone', `w@${name}`, '--name', 'w'], 1, /VM w exists already/],
    [['clone', 'none'], 2, /VM@NAME/],
    [['clone', 'w@none'], 10, /none/],
    [['clone', 'w', '--name', '../x'], 2, /cannot name a VM/],
  ] as const) {
    t.match(await ckptfs(...args), { status, stderr: why });
  }
  await ckptfs('stop', 'c2');
  t.match(await ckptfs('clone', 'c2'), { status: 10, stderr: /not running; start it, or clone a/ });
  t.equal((await listCheckpointNames(store, 'w')).length, 2, 'none is taken for nothing');

  // The first may go; its clones have all that they need.
  await ckptfs('stop', 'w');
  t.equal((await ckptfs('rm', 'w', '--force')).status, 0);
  t.match(await json('checkpoint', 'w-clone', '--name', 'alone'), { state: 'published' });
  t.match(await ckptfs('verify', 'w-clone@alone'), { status: 0 });
  t.match(await json('clone', 'w-clone', '--name', 'last', '--detach'), { vm: 'last' });
});
