/**
 * The mount: reading a raw disk and LZ4 memory through it, beside xmount, a FUSE export of qemu-storage-daemon
 * and the other transport, all over the same bytes; the first byte of a large checkpoint; a store of very many.
 *
 * "Cached" is reading through the kernel's page cache, with nothing of the mounted file in it at the start (fio drops
 * it); "direct" is O_DIRECT. The files below are in the page cache: what is measured is what the mount costs.
 */
import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { link, mkdir, open, readdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { findCheckpoint } from '../src/checkpoint/checkpoints.js';
import { manifestFile, readManifest, writeManifest } from '../src/checkpoint/manifest.js';
import { Store } from '../src/checkpoint/store.js';
import { Vm } from '../src/vmm/vm.js';
import { bareConfig, temporaryDirectory } from '../test/support/guests.js';
import { Ckptfs } from './ckptfs.js';
import { fullGuest, gib, mib } from './guest.js';
import {
  type Mounted,
  mountStorageDaemon,
  mountXmount,
  type Shown,
  StoreMount,
} from './mount_systems.js';
import { sizeName } from './pause.js';
import { makeRandomFile } from './random_file.js';
import { median, row, type Row, rowsOf } from './row.js';

const bench = 'mount';
const run = promisify(execFile);
const transports = ['libfuse3', 'fuse-native'];
/** Which processor the server's thread wakes on makes a factor of three: short turns, and many. */
const randomBytesRead = 16 * mib;
const randomTurns = 3;

interface Reading {
  name: string;
  pattern: 'read' | 'randread';
  direct: boolean;
  jobs: number;
}

const readings: Reading[] = (['read', 'randread'] as const).flatMap((pattern) =>
  [false, true].flatMap((direct) =>
    [1, 4].map((jobs) => ({
      name: `${pattern === 'read' ? 'sequential' : '4 KiB random'}, ${direct ? 'direct' : 'cached'}, ${jobs} ${jobs === 1 ? 'job' : 'jobs'}`,
      ...{ pattern, direct, jobs },
    })),
  ),
);

/**
 * Reads the first `bytes` of a file once, or some of its blocks at random: GB or thousands a second. The buffers begin at
 * a page, as those of cp and the like do (docs/performance.md says what it costs if they do not).
 */
async function speed(file: string, bytes: number, reading: Reading): Promise<number> {
  const { pattern, direct, jobs } = reading;
  const [share, random] = [bytes / jobs, pattern === 'randread'];
  const { stdout } = await run('fio', [
    ...['--name=read', `--filename=${file}`, '--readonly', '--thread', '--group_reporting'],
    ...[`--rw=${pattern}`, `--bs=${random ? '4k' : '1m'}`, `--direct=${direct ? 1 : 0}`],
    ...[`--numjobs=${jobs}`, `--size=${share}`, `--offset_increment=${share}`],
    ...(random ? [`--io_size=${Math.min(share / 4, randomBytesRead)}`] : []),
    '--iomem_align=4k',
    '--output-format=json',
  ]);
  interface Result {
    jobs: { error: number; read: { bw_bytes: number; iops: number } }[];
  }
  const [job] = (JSON.parse(stdout.slice(stdout.indexOf('{'))) as Result).jobs;
  if (job?.error !== 0) throw new Error(`fio could not read ${file}`);
  return random ? job.read.iops / 1000 : job.read.bw_bytes / 1e9;
}

const unitOf = ({ pattern }: Reading): string => (pattern === 'read' ? 'GB/s' : 'k/s');

/** The medians of what each system reads, in turns. */
async function speeds(
  systems: readonly Shown[],
  bytes: number,
  reading: Reading,
  repetitions: number,
): Promise<number[]> {
  const values: number[][] = systems.map(() => []);
  const turns = reading.pattern === 'read' ? repetitions : repetitions * randomTurns;
  for (let i = 0; i < turns; i++) {
    for (const [n, { file }] of systems.entries()) {
      values[n]?.push(await speed(file, bytes, reading));
    }
  }
  return values.map((of) => median(of));
}

async function rawRows(
  systems: readonly Mounted[],
  bytes: number,
  repetitions: number,
): Promise<Row[]> {
  const rows: Row[] = [];
  for (const reading of readings) {
    const part = `raw disk, ${reading.name}`;
    const made = await rowsOf(bench, part, async () => {
      const [ours = NaN, ...others] = await speeds(systems, bytes, reading, repetitions);
      const least = reading.pattern === 'read' ? 1.5 : 1;
      return others.map((value, i) => {
        const name = systems[i + 1]?.name ?? '';
        const target = name === 'xmount' ? { ratioAtLeast: least } : {};
        return row(bench, part, ours, unitOf(reading), target, { name, value });
      });
    });
    rows.push(...made);
  }
  return rows;
}

async function memoryRows(
  [ours, other]: readonly [StoreMount, StoreMount],
  path: string,
  bytes: number,
  repetitions: number,
): Promise<Row[]> {
  const memory = [ours.shown(path), other.shown(path)];
  const rows: Row[] = [];
  for (const reading of readings.filter(({ pattern }) => pattern === 'read')) {
    const part = `LZ4 memory, ${reading.name}`;
    const made = await rowsOf(bench, part, async () => {
      const [value = NaN, theirs] = await speeds(memory, bytes, reading, repetitions);
      const peer = { name: other.name, value: theirs };
      return [row(bench, part, value, 'GB/s', { atLeast: 1.5 }, peer)];
    });
    rows.push(...made);
  }
  return rows;
}

/** From before the open until the first byte is there, in ms. */
async function firstByteMs(file: string): Promise<number> {
  const began = performance.now();
  const handle = await open(file);
  try {
    await handle.read(Buffer.alloc(1), 0, 1, 0);
    return performance.now() - began;
  } finally {
    await handle.close();
  }
}

/** A guest with much memory and a raw disk, and its checkpoint. */
async function makeCheckpoint(root: string, raw: string, bytes: number): Promise<Store> {
  const store = await Store.open(root, { create: true });
  const workload = fullGuest(bytes);
  const disks = [{ path: raw, readonly: true }];
  const ckptfs = await Ckptfs.start(store, 'guest', workload, { disks });
  try {
    await ckptfs.guest();
    await ckptfs.save({ codec: 'lz4', full: true });
  } finally {
    await ckptfs.close();
  }
  return store;
}

async function readRows(scratch: string, quick: boolean): Promise<Row[]> {
  const [raw, rawBytes] = [join(scratch, 'raw.raw'), quick ? 64 * mib : gib];
  const memoryBytes = quick ? gib / 2 : 8 * gib;
  await makeRandomFile(raw, rawBytes);
  const { root } = await makeCheckpoint(join(scratch, 'store'), raw, memoryBytes);
  const checkpoint = 'vms/guest/checkpoints/save-0';
  const systems: Mounted[] = [];
  try {
    const [ours, other] = [
      await StoreMount.of(root, scratch, transports[0] ?? '', `${checkpoint}/disks/vda`),
      await StoreMount.of(root, scratch, transports[1] ?? '', `${checkpoint}/disks/vda`),
    ];
    systems.push(ours, other);
    systems.push(await mountXmount(raw, scratch), await mountStorageDaemon(raw, scratch));
    const memory = `${checkpoint}/memory`;
    const first = await rowsOf(bench, 'first byte', async () => [
      row(
        bench,
        `first byte of ${sizeName(memoryBytes)} of LZ4 memory, from its open`,
        await firstByteMs(join(ours.directory, memory)),
        'ms',
        { atMost: 20 },
      ),
    ]);
    const repetitions = quick ? 1 : 3;
    const read = Math.min(memoryBytes, gib);
    return [
      ...(await rawRows(systems, rawBytes, repetitions)),
      ...(await memoryRows([ours, other], memory, read, repetitions)),
      ...first,
      ...(await rowsOf(bench, 'memory of the process', async () => [
        row(bench, 'memory of the process after all of it', await ours.peakMegabytes(), 'MB', {
          atMost: 150,
        }),
      ])),
    ];
  } finally {
    for (const system of systems) await system.unmount();
  }
}

/** A store with so many checkpoints of one small VM, which share all files but their manifests. */
async function makeMany(root: string, count: number): Promise<void> {
  const store = await Store.open(root, { create: true });
  const vm = await Vm.create(store, { ...bareConfig('random-writer', 'mib=1'), name: 'many' });
  try {
    await vm.start();
    await vm.checkpoint({ name: 'first', wait: true });
  } finally {
    await vm.close();
  }
  const { directory } = await findCheckpoint(store, 'many@first');
  const { files, ...draft } = await readManifest(directory);
  const began = Date.parse(draft.createdAt);
  for (let i = 1; i < count; i++) {
    const name = `checkpoint-${i}`;
    const copy = store.checkpointDirectory('many', name);
    await mkdir(copy);
    for (const { path } of files) await link(join(directory, path), join(copy, path));
    const createdAt = new Date(began + i * 1000).toISOString();
    const id = randomBytes(16).toString('hex');
    const { text } = writeManifest({ ...draft, id, name, createdAt, parentId: null }, files);
    await writeFile(join(copy, manifestFile), text);
  }
}

async function manyRows(scratch: string, quick: boolean): Promise<Row[]> {
  return rowsOf(bench, 'a store of many checkpoints', async () => {
    const count = quick ? 100 : 10_000;
    const root = join(scratch, 'many');
    await makeMany(root, count);
    const [mountS, listS, statS]: [number[], number[], number[]] = [[], [], []];
    for (let i = 0; i < (quick ? 1 : 3); i++) {
      let began = performance.now();
      const mounted = await StoreMount.of(
        root,
        scratch,
        transports[0] ?? '',
        'vms/many/config.json',
      );
      mountS.push((performance.now() - began) / 1000);
      try {
        const directory = join(mounted.directory, 'vms/many/checkpoints');
        began = performance.now();
        const names = await readdir(directory);
        listS.push((performance.now() - began) / 1000);
        if (names.length <= count) throw new Error(`${names.length} names of ${count} and latest`);
        began = performance.now();
        await run('ls', ['-l', directory], { maxBuffer: 64 * mib });
        statS.push((performance.now() - began) / 1000);
      } finally {
        await mounted.unmount();
      }
    }
    const name = `a store of ${count} checkpoints: `;
    return [
      row(bench, `${name}until it is mounted`, median(mountS), 's', { atMost: 1 }),
      row(bench, `${name}listed`, median(listS), 's', { atMost: 0.5 }),
      row(bench, `${name}ls -l`, median(statS), 's'),
    ];
  });
}

/** All rows; `quick` only shows that they can be made. */
export async function mount(quick: boolean): Promise<Row[]> {
  const { path: scratch, remove } = await temporaryDirectory();
  try {
    const rows = await manyRows(scratch, quick);
    await rm(join(scratch, 'many'), { recursive: true, force: true });
    rows.push(...(await readRows(scratch, quick)));
    return rows;
  } finally {
    await remove();
  }
}
