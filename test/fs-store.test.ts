/** A real store, as the tree shows it and as `ckptfs mount` mounts it. */
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  mkdir,
  open,
  readdir,
  readFile,
  readlink,
  rm,
  symlink,
  truncate,
  utimes,
  writeFile,
} from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import t, { type Test } from 'tap';
import { findCheckpoint, removeCheckpoint } from '../src/checkpoint/checkpoints.js';
import { Publication } from '../src/checkpoint/publish.js';
import { Store } from '../src/checkpoint/store.js';
import { errnoName } from '../src/fs/errno.js';
import { mountOn, unmountPath } from '../src/fs/mounts.js';
import { storeView } from '../src/fs/store_view.js';
import { Tree } from '../src/fs/tree.js';
import { command, eventually, failure, noFuse, temporary } from './fs-harness.js';

const skip = noFuse();
const main = fileURLToPath(new URL('../src/cli/main.js', import.meta.url));
const geometry = { pageBytes: 4096, pagesPerBlock: 8, blocksPerIoBlock: 8 };
const parentBytes = 1 << 20;
const deviceState = '{"uart":{}}\n';

/** A store with the VM alpha, stopped, whose disk has one redo log, and the checkpoints first and second. */
async function makeStore(t: Test): Promise<Store> {
  const base = await temporary(t);
  const store = await Store.open(join(base, 'store'), { create: true });
  const parent = join(base, 'parent.raw');
  await writeFile(parent, Buffer.alloc(8192, 'p'));
  await truncate(parent, parentBytes);
  await symlink(parent, join(base, 'link.raw'));
  const disk = { id: 'vda', path: join(base, 'link.raw'), mode: 'nonpersistent', readonly: false };
  const config = { name: 'alpha', kernel: '/k', memoryBytes: 64 << 20, disks: [disk] };
  await store.createVm('alpha');
  await store.writeConfig('alpha', config);
  await writeFile(store.consoleLog('alpha'), 'booted\n');
  await mkdir(store.diskDirectory('alpha', 'vda'), { recursive: true });
  const redo = join(store.diskDirectory('alpha', 'vda'), '00000001.redo');
  await writeFile(redo, 'redo');
  const first = await publish(store, 'first', '2026-11-20T10:15:05.000Z', null);
  await publish(store, 'second', '2026-11-20T10:15:06.000Z', first);
  return store;
}

/** Publishes a checkpoint of alpha; resolves with its id. */
async function publish(
  store: Store,
  name: string,
  createdAt: string,
  parentId: string | null = null,
): Promise<string> {
  const publication = await Publication.begin(store, 'alpha', name);
  await publication.write('device-state.json', deviceState);
  await publication.write('memory.map', 'no map');
  const redo = join(store.diskDirectory('alpha', 'vda'), '00000001.redo');
  await publication.link(redo, 'disks/vda/00000001.redo');
  await publication.commit({
    id: publication.id,
    name,
    vm: 'alpha',
    createdAt,
    parentId,
    geometry,
    memoryBytes: 64 << 20,
    codec: 'lz4',
    cpus: 1,
    guestTicks: '0',
    config: { name: 'alpha' },
    disks: [
      {
        id: 'vda',
        access: 'redo',
        parent: join(store.root, '../parent.raw'),
        parentIdentity: { bytes: parentBytes, mtimeNs: '0' },
        redo: ['disks/vda/00000001.redo'],
      },
    ],
    stats: {
      pauseUs: 1,
      phasesUs: {},
      totalUs: 1,
      storedBytes: 1,
      blocks: { vcpu: 0, background: 0, zero: 0, parent: 0, duplicate: 0 },
      faults: 0,
    },
  });
  return publication.id;
}

async function names(tree: Tree, path: string): Promise<string[]> {
  return (await tree.list(path)).slice(2).map(({ name }) => name);
}

async function contents(tree: Tree, path: string): Promise<string> {
  const { bytes } = await tree.stat(path);
  const { source, release } = await (await tree.node(path)).open();
  try {
    const into = Buffer.alloc(bytes);
    return into.subarray(0, await source.read(into, 0)).toString();
  } finally {
    release();
  }
}

/** Changes one byte of a file in place. */
async function flip(path: string, position: number): Promise<void> {
  const file = await open(path, 'r+');
  const byte = Buffer.alloc(1);
  await file.read(byte, 0, 1, position);
  await file.write(Buffer.from([(byte[0] ?? 0) ^ 1]), 0, 1, position);
  await file.close();
}

t.test('a store as a tree', async (t) => {
  const store = await makeStore(t);
  const tree = new Tree(storeView(store));
  t.same(await names(tree, '/vms'), ['alpha']);
  t.same(await names(tree, '/vms/alpha'), [
    'checkpoints',
    'config.json',
    'console.log',
    'layers',
    'status.json',
  ]);
  t.same(JSON.parse(await contents(tree, '/vms/alpha/status.json')), {
    vm: 'alpha',
    state: 'stopped',
  });
  t.equal(await contents(tree, '/vms/alpha/console.log'), 'booted\n');
  t.equal(
    await contents(tree, '/vms/alpha/config.json'),
    await readFile(store.configFile('alpha'), 'utf8'),
  );
  t.same(await names(tree, '/vms/alpha/layers'), ['vda']);
  t.same(await names(tree, '/vms/alpha/layers/vda'), ['00000001.redo', 'parent']);
  t.equal((await tree.stat('/vms/alpha/layers/vda/parent')).bytes, parentBytes);

  t.same(await names(tree, '/vms/alpha/checkpoints'), ['first', 'latest', 'second']);
  t.equal(await (await tree.node('/vms/alpha/checkpoints/latest')).target(), 'second');
  t.same(await names(tree, '/by-time'), ['2026-11-20T10-15-05Z', '2026-11-20T10-15-06Z']);
  const second = '/vms/alpha/checkpoints/second';
  t.equal((await tree.stat(`${second}/memory`)).bytes, 64 << 20);
  const all = 64 << 20;
  t.equal((await tree.stat(`${second}/memory`)).blocks, all / 512, 'a map that cannot be read');
  t.equal((await tree.stat(`${second}/memory.elf`)).blocks, (all + 65_536) / 512);
  t.equal((await tree.stat(`${second}/disks/vda`)).bytes, parentBytes);
  t.equal((await tree.stat(`${second}/disks/vda`)).blocks, 8192 / 512 + 8, 'its layers');
  t.equal(await contents(tree, `${second}/device-state.json`), deviceState);
  const manifest = JSON.parse(await contents(tree, `${second}/manifest.json`)) as object;
  t.match(manifest, { name: 'second', vm: 'alpha' });
  t.match(Object.fromEntries((await tree.node(second)).xattrs()), {
    'user.ckptfs.id': /^[0-9a-f]{32}$/,
    'user.ckptfs.parent': (await tree.node('/vms/alpha/checkpoints/first'))
      .xattrs()
      .get('user.ckptfs.id'),
    'user.ckptfs.checksum': /^sha256:[0-9a-f]{64}$/,
  });
  t.equal(
    (await tree.stat(`${second}/image/disks/vda/00000001.redo`)).inode,
    (await tree.stat('/vms/alpha/layers/vda/00000001.redo')).inode,
    'the hard link of a layer',
  );

  const errno = (path: string) => tree.stat(path).then(() => 'none', errnoName);
  for (const path of ['/vms/beta', '/vms/..', '/vms/.hidden', '/vms/alpha/checkpoints/third']) {
    t.equal(await errno(path), 'ENOENT', path);
  }
});

t.test('listings follow the store', async (t) => {
  const store = await makeStore(t);
  const tree = new Tree(storeView(store));
  const checkpoints = '/vms/alpha/checkpoints';
  const latest = async () => (await tree.node(`${checkpoints}/latest`)).target();
  const attribute = async (name: string) =>
    (await tree.node(`${checkpoints}/${name}`)).xattrs().get('user.ckptfs.id');
  /** As if the directory had changed last some time ago, so that a listing of it is kept. */
  const look = async () => {
    const past = new Date(Date.now() - 3_600_000);
    await utimes(store.checkpointsDirectory('alpha'), past, past);
    return [await names(tree, checkpoints), await names(tree, '/by-time'), await latest()];
  };
  const times = ['2026-11-20T10-15-05Z', '2026-11-20T10-15-06Z'];
  for (const how of ['read', 'kept']) {
    t.same(await look(), [['first', 'latest', 'second'], times, 'second'], how);
  }
  const third = await publish(store, 'third', '2026-11-20T10:15:07.000Z');
  t.equal(await attribute('third'), third);
  t.equal(await latest(), 'third');
  t.same(await names(tree, '/by-time'), [...times, '2026-11-20T10-15-07Z']);
  await look();
  await removeCheckpoint(store, await findCheckpoint(store, 'alpha@third'));
  t.equal(await attribute('third').catch(errnoName), 'ENOENT');
  t.equal(await latest(), 'second');
  await look();
  await removeCheckpoint(store, await findCheckpoint(store, 'alpha@second'));
  const again = await publish(store, 'second', '2026-11-20T10:15:04.000Z');
  t.equal(await attribute('second'), again, 'another one of that name');
  t.same(await look(), [
    ['first', 'latest', 'second'],
    ['2026-11-20T10-15-04Z', '2026-11-20T10-15-05Z'],
    'first',
  ]);
  await rm(store.checkpointsDirectory('alpha'), { recursive: true });
  t.same(await names(tree, checkpoints), []);
  t.equal(await latest().catch(errnoName), 'ENOENT');
});

t.test('a damaged checkpoint', async (t) => {
  const store = await makeStore(t);
  const tree = new Tree(storeView(store));
  const second = '/vms/alpha/checkpoints/second';
  await tree.stat(second);
  await flip(join(store.checkpointDirectory('alpha', 'second'), 'device-state.json'), 3);
  t.equal(await contents(tree, `${second}/device-state.json`).catch(errnoName), 'EIO');
  t.match(await contents(tree, `${second}/image/device-state.json`), /u/, 'image/ is as stored');
  await flip(join(store.checkpointDirectory('alpha', 'second'), 'manifest.json'), 100);
  t.equal(await contents(tree, `${second}/manifest.json`).catch(errnoName), 'EIO');
  t.equal(await (await tree.node('/vms/alpha/checkpoints/latest')).target(), 'first');
  t.same(await names(tree, '/vms/alpha/checkpoints'), ['first', 'latest', 'second']);
  t.equal((await tree.stat(second)).kind, 'directory', 'it can be removed');
  await truncate(join(store.checkpointDirectory('alpha', 'second'), 'manifest.json'), 100);
  t.match(await tree.stat(second), { kind: 'directory', timeMs: Number });
  t.same([...(await tree.node(second)).xattrs()], []);
  t.equal(await tree.list(second).catch(errnoName), 'EIO');
});

/** Runs the command; resolves with its exit code and what it printed. */
async function ckptfs(
  ...args: string[]
): Promise<{ code: number; stdout: string; stderr: string }> {
  try {
    const run = promisify(execFile);
    return { code: 0, ...(await run(process.execPath, [main, ...args], { timeout: 30_000 })) };
  } catch (error) {
    return error as { code: number; stdout: string; stderr: string };
  }
}

t.test('ckptfs mount and umount', { skip }, async (t) => {
  const store = await makeStore(t);
  const directory = join(await temporary(t), 'mnt');
  await mkdir(directory);
  t.teardown(async () => {
    while ((await mountOn(directory)) !== undefined) await unmountPath(directory, true);
  });

  await t.test('in the background', async (t) => {
    const mounted = await ckptfs('mount', '--json', store.root, directory);
    t.equal(mounted.stderr, '');
    t.match(JSON.parse(mounted.stdout), { type: 'result', directory, store: store.root });
    const { pid } = JSON.parse(mounted.stdout) as { pid: number };
    t.equal(await readlink(join(directory, 'vms/alpha/checkpoints/latest')), 'second');
    t.equal(
      await command('cat', join(directory, 'vms/alpha/checkpoints/first/device-state.json')),
      deviceState,
    );
    const memory = join(directory, 'vms/alpha/checkpoints/first/memory');
    t.match(await failure('cat', memory), 'Input/output error', 'its map is none');
    t.match(
      await readFile(join(store.root, 'mount.log'), 'utf8'),
      /^\S+Z \/vms\/alpha\/checkpoints\/first\/memory: .*memory\.map.*\(EIO\)$/m,
    );

    const again = await ckptfs('mount', store.root, directory);
    t.match(again, { code: 11, stderr: /ckptfs: cannot mount on .*a ckptfs mount already/ });
    const used = await open(memory.replace('memory', 'manifest.json'));
    t.match(await ckptfs('umount', directory), { code: 11, stderr: /is in use/ });
    await used.close();
    await eventually(t, 'it can be unmounted', async () => {
      return (await ckptfs('umount', directory)).code === 0;
    });
    t.same(await readdir(directory), []);
    await eventually(t, 'its process ends', async () => {
      try {
        process.kill(pid, 0);
        return false;
      } catch {
        return true;
      }
    });
    t.match(await ckptfs('umount', directory), { code: 10, stderr: /nothing is mounted/ });
  });

  await t.test('in the foreground, until Ctrl-C', async (t) => {
    const args = [main, '--store', store.root, 'mount', '-f', directory];
    const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] });
    const [line] = (await once(child.stdout, 'data')) as [Buffer];
    t.match(line.toString(), `mounted ${store.root} on ${directory}`);
    t.same(await readdir(directory), ['by-time', 'vms']);
    const exited = once(child, 'exit');
    child.kill('SIGINT');
    t.same(await exited, [0, null]);
    t.equal(await mountOn(directory), undefined);
  });

  await t.test('refusals', async (t) => {
    const cases: [string[], number, RegExp][] = [
      [[store.root, join(directory, 'missing')], 10, /it does not exist/],
      [[join(directory, 'nostore'), directory], 10, /no store at/],
      [[store.root, store.vmsDirectory()], 2, /it lies in the store/],
      [['-o', 'rw,barrier', store.root, directory], 2, /unknown mount option barrier/],
      [['--transport', 'nfs', store.root, directory], 2, /unknown transport nfs/],
      [[store.root, directory, directory], 2, /one store at most/],
      [[], 2, /missing required argument/],
    ];
    for (const [args, code, stderr] of cases) {
      const result = await ckptfs('mount', ...args);
      t.match(result, { code, stderr }, args.join(' '));
      t.equal(result.stderr.trim().split('\n').length, 1, 'one line');
    }
    t.equal(await mountOn(directory), undefined);
  });
});
