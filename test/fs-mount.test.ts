/** Mounts through every transport: their one suite, and what mount and unmount refuse. */
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, open, readdir, readFile, symlink, writeFile } from 'node:fs/promises';
import { constants } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { CkptError } from '../src/errors.js';
import { loadError } from '../src/fs/fuse_native.js';
import { mount } from '../src/fs/mount.js';
import { mountOn, mountType, unmountDirectory, unmountPath } from '../src/fs/mounts.js';
import { transportNames } from '../src/fs/transport.js';
import { command, noFuse, serve, temporary } from './fs-harness.js';
import { loadSuite } from './fs-load-suite.js';
import { suite } from './fs-suite.js';
import { writingSuite } from './fs-writing-suite.js';
import { makeStore, makeView } from './fs-view.js';

const skip = noFuse();
const remounter = fileURLToPath(new URL('support/remounter.js', import.meta.url));

for (const transport of transportNames) {
  t.test(transport, { skip }, async (t) => {
    suite(t, transport);
    loadSuite(t, transport);
    writingSuite(t, transport);
  });
}

t.test('unfit mountpoints', { skip }, async (t) => {
  const base = await temporary(t);
  const store = join(base, 'outer/store');
  await makeStore(store);
  const refused = async (directory: string, code: string, message: RegExp) => {
    await t.rejects(mount(makeView(store), directory), { code, message }, directory);
    t.not((await mountOn(directory))?.type, mountType);
  };
  await refused(join(base, 'missing'), 'NOT_FOUND', /it does not exist/);
  await writeFile(join(base, 'file'), '');
  await refused(join(base, 'file'), 'USAGE', /it is not a directory/);
  await mkdir(join(base, 'full/x'), { recursive: true });
  await refused(join(base, 'full'), 'USAGE', /it is not empty/);
  await refused(store, 'USAGE', /it lies in the store/);
  await refused(join(store, 'vms/alpha'), 'USAGE', /it lies in the store/);
  await refused(join(base, 'outer'), 'USAGE', /the store lies in it/);
  await refused('/', 'BUSY', /mount; name another directory/);
  await symlink(join(store, 'vms'), join(base, 'link'));
  await refused(join(base, 'link'), 'USAGE', /it lies in the store/);
  const long = join(base, ...Array.from({ length: 11 }, () => 'd'.repeat(100)));
  await mkdir(long, { recursive: true });
  await refused(long, 'USAGE', /its path is too long/);

  const { directory } = await serve(t, { transport: 'fuse-native' });
  await t.rejects(mount(makeView(store), directory), {
    code: 'BUSY',
    message: /a ckptfs mount already/,
  });
});

t.test('a mountpoint with an odd name', { skip }, async (t) => {
  const directory = join(await temporary(t), 'a b\\\n$(touch x)é,ro');
  await mkdir(directory);
  await serve(t, { transport: 'fuse-native', directory });
  t.equal(await command('ls', directory), 'by-time\nvms\n');
  t.equal(await unmountDirectory(directory), directory);
});

t.test('unmounting what is no mount of ours', { skip }, async (t) => {
  const base = await temporary(t);
  await t.rejects(unmountDirectory(base), { code: 'NOT_FOUND', message: /nothing is mounted/ });
  await t.rejects(unmountDirectory(join(base, 'x')), { code: 'NOT_FOUND' });
  await t.rejects(unmountDirectory('/proc'), { code: 'USAGE', message: /proc mount/ });
});

t.test('unmounting what is in use is BUSY', { skip }, async (t) => {
  const { directory } = await serve(t, { transport: 'fuse-native' });
  const handle = await open(join(directory, 'vms/alpha/checkpoints/one/memory'));
  await t.rejects(unmountDirectory(directory), { code: 'BUSY', message: /is in use/ });
  await handle.close();
  // The kernel tells the server of the close in its own time.
  for (let i = 0; (await mountOn(directory)) !== undefined && i < 100; i++) {
    await unmountDirectory(directory).catch((error: unknown) => {
      if (!(error instanceof CkptError) || error.code !== 'BUSY') throw error;
    });
  }
  t.equal(await mountOn(directory), undefined);
});

t.test('threads that libfuse cancels take no signals', { skip }, async (t) => {
  const base = await temporary(t);
  const [store, directory] = [join(base, 'store'), join(base, 'mnt')];
  await makeStore(store);
  await mkdir(directory);
  const child = fork(remounter, [store, directory, 'fuse-native'], { execArgv: [] });
  const exited = once(child, 'exit');
  t.teardown(async () => {
    child.kill('SIGKILL');
    await exited;
    if ((await mountOn(directory)) !== undefined) await unmountPath(directory, true);
  });
  const mounted = once(child, 'message');
  child.send('mount');
  t.same((await mounted)[0], 'fuse-native');
  const tasks = `/proc/${child.pid}/task`;
  /** Whether the thread would take the end of a child. */
  const takes = async (thread: string): Promise<boolean> => {
    const status = await readFile(join(tasks, thread, 'status'), 'utf8');
    const blocked = BigInt(`0x${/^SigBlk:\t([0-9a-f]+)$/m.exec(status)?.[1]}`);
    return (blocked & (1n << BigInt(constants.signals.SIGCHLD - 1))) === 0n;
  };
  let threads = 0;
  for (const thread of await readdir(tasks)) {
    const waits = await readFile(join(tasks, thread, 'wchan'), 'utf8');
    if (!waits.startsWith('fuse_dev')) continue;
    threads++;
    t.notOk(await takes(thread), `thread ${thread}`);
  }
  t.ok(threads > 0, `${threads} threads wait for requests`);
  t.ok(await takes(String(child.pid)), 'and JavaScript does');
  child.disconnect();
  t.same(await exited, [0, null]);
});

t.test('a missing shared library names its package', async (t) => {
  const cause = new Error(
    'libfuse.so.2: cannot open shared object file: No such file or directory',
  );
  t.match(loadError(cause), {
    code: 'UNSUPPORTED',
    message: /install the Debian package libfuse2/,
  });
  t.match(loadError(new Error('no such module')), { message: /no such module.*npm run setup/ });
});
