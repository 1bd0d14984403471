/**
 * A process that mounts, is read and unmounts again and again keeps nothing of it: no descriptor, thread, child,
 * mount or memory. 20 times; CKPTFS_MOUNT_CYCLES=10000 node dist/test/mount-cycles.test.js takes longer.
 */
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { mountOn, unmountPath } from '../src/fs/mounts.js';
import { eventually, noFuse, temporary } from './fs-harness.js';
import { makeStore, memoryBytes, patternBytes } from './fs-view.js';
import { transportsUnderTest } from './support/tools.js';

const remounter = fileURLToPath(new URL('support/remounter.js', import.meta.url));
const cycles = Number(process.env.CKPTFS_MOUNT_CYCLES ?? 20);
/** Until then pools fill and code is loaded. */
const warmUpCycles = 5 + Math.floor(cycles / 10);
/** Buffers come and go. */
const slackBytes = 32 << 20;
const slackMappings = 256;
/** What the binding of fuse-native keeps of every mount: a thread's stack, and what belongs to its session. */
const keptByBinding = { mappings: 4, bytes: 320 << 10 };

/** What is freed goes back to the kernel: else a heap in pieces looks like one that leaks. */
const tidy = {
  execArgv: ['--expose-gc'],
  env: { ...process.env, MALLOC_ARENA_MAX: '1', MALLOC_MMAP_THRESHOLD_: '65536' },
};

t.setTimeout(120_000 + cycles * 2_000);

interface Holdings {
  descriptors: number;
  threads: number;
  residentBytes: number;
  mappings: number;
}

async function holdingsOf(pid: number): Promise<Holdings> {
  const proc = (name: string) => readFile(`/proc/${pid}/${name}`, 'utf8');
  const field = (text: string, name: string) =>
    Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(text)?.[1]);
  const status = await proc('status');
  return {
    descriptors: (await readdir(`/proc/${pid}/fd`)).length,
    threads: field(status, 'Threads'),
    residentBytes: field(status, 'VmRSS') * 1024,
    mappings: (await proc('maps')).split('\n').length,
  };
}

for (const transport of transportsUnderTest()) {
  t.test(
    `${cycles} mounts over ${transport ?? 'the default transport'}`,
    { skip: noFuse() },
    async (t) => {
      const base = await temporary(t);
      const [store, directory] = [join(base, 'store'), join(base, 'mnt')];
      await makeStore(store);
      await mkdir(directory);
      const child = fork(remounter, [store, directory, transport ?? ''], tidy);
      const exited = once(child, 'exit');
      t.teardown(async () => {
        while ((await mountOn(directory)) !== undefined) await unmountPath(directory, true);
        child.kill('SIGKILL');
        await exited;
      });
      const remount = async () => {
        const answer = once(child, 'message');
        child.send('mount');
        const ended = exited.then(() => Promise.reject(new Error('its server ended')));
        const [used] = (await Promise.race([answer, ended])) as [string];
        return used;
      };
      const used = await remount();
      const file = join(directory, 'vms/alpha/checkpoints/one/memory');
      const expected = patternBytes(1, 0, memoryBytes);
      const pid = child.pid ?? 0;
      let before: Holdings | undefined;
      for (let cycle = 0; cycle < warmUpCycles + cycles; cycle++) {
        if (!(await readFile(file)).equals(expected)) t.fail(`cycle ${cycle} reads something else`);
        if (cycle === warmUpCycles) before = await holdingsOf(pid);
        await remount();
      }
      if (before === undefined) throw new Error('no cycle was measured');
      const { threads, descriptors } = before;
      let after = before;
      await eventually(t, 'as many threads and descriptors as before', async () => {
        after = await holdingsOf(pid);
        return after.threads <= threads && after.descriptors <= descriptors;
      });
      const kept = used === 'fuse-native' ? keptByBinding : { mappings: 0, bytes: 0 };
      const mappings = after.mappings - before.mappings;
      t.ok(mappings < slackMappings + cycles * kept.mappings, `${mappings} more mappings`);
      const grownBytes = after.residentBytes - before.residentBytes;
      t.ok(
        grownBytes < slackBytes + cycles * kept.bytes,
        `${Math.round(grownBytes / 1024)} KiB more memory`,
      );
      t.same(
        (await readFile(`/proc/${pid}/task/${pid}/children`, 'utf8')).trim(),
        '',
        'no children',
      );
      const mountinfo = await readFile('/proc/self/mountinfo', 'utf8');
      t.equal(mountinfo.split(directory).length - 1, 1, 'one mount');
      child.disconnect();
      t.same(await exited, [0, null]);
      t.equal(await mountOn(directory), undefined, 'and then none');
    },
  );
}
