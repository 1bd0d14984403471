/**
 * Disks: requests to a redo log beside the same requests to a qcow2 overlay over the same parent; reading through
 * many logs; opening them. The parent is random data and, like the logs, on the disk of the temporary directory
 * and in the page cache: what is measured is what the formats cost, and for writes also until they are durable.
 *
 * "Random" is a step of 0.618 of the disk, so that every block comes once and neighbours in time lie far apart:
 * `qemu-img bench` knows no other order than steps. It is the only peer without a transport (NBD would be one) between
 * the requests and the format.
 */
import { join } from 'node:path';
import { temporaryDirectory } from '../test/support/guests.js';
import { rest } from './device.js';
import {
  buildDriver,
  type DiskSystem,
  drive,
  Qcow2,
  RedoLog,
  requestArgs,
  type Requests,
  type Took,
} from './disk_requests.js';
import { gib, mib } from './guest.js';
import { makeRandomFile } from './random_file.js';
import { median, row, type Row, rowsOf } from './row.js';

const bench = 'disk';
const kib = 2 ** 10;
const layers = 32;
const depths = [1, 32];

interface Parent {
  path: string;
  bytes: number;
}

interface Kind {
  name: string;
  requests: Omit<Requests, 'depth'>;
}

/** A file of random bytes. */
async function makeParent(directory: string, bytes: number): Promise<Parent> {
  const path = join(directory, 'parent.raw');
  await makeRandomFile(path, bytes);
  return { path, bytes };
}

/** An odd number of blocks: coprime to the number of blocks of the disk, a power of two. */
function wander(diskBytes: number): number {
  return (Math.floor((diskBytes / (4 * kib)) * 0.618034) | 1) * 4 * kib;
}

/** Of small requests as many as half the disk has blocks. */
function kindsOf({ bytes }: Parent): Kind[] {
  const small = { count: bytes / (8 * kib), bytes: 4 * kib };
  return [
    { name: '4 KiB random', requests: { ...small, stepBytes: wander(bytes) } },
    { name: '4 KiB sequential', requests: { ...small, stepBytes: 4 * kib } },
    {
      name: '1 MiB sequential',
      requests: { count: bytes / mib, bytes: mib, stepBytes: mib },
    },
  ];
}

/** In thousands of small requests a second, or GiB a second. */
function speed({ count, bytes }: Requests, seconds: number[]): { value: number; unit: string } {
  const each = median(seconds);
  return bytes < mib
    ? { value: count / each / 1000, unit: 'k/s' }
    : { value: (count * bytes) / each / gib, unit: 'GiB/s' };
}

async function requestRows(parent: Parent, kind: Kind, depth: number, repetitions: number) {
  const name = `${kind.name}, depth ${depth}`;
  return rowsOf(bench, name, async () => {
    const requests = { ...kind.requests, depth };
    const systems: [DiskSystem, DiskSystem] = [new RedoLog(parent.path), new Qcow2(parent.path)];
    const took = systems.map(() => ({ write: [] as Took[], read: [] as Took[] }));
    for (let i = 0; i < repetitions; i++) {
      for (const [n, system] of systems.entries()) {
        try {
          await rest();
          took[n]?.write.push(await system.write(requests));
          await rest();
          took[n]?.read.push(await system.read(requests));
        } finally {
          await system.remove();
        }
      }
    }
    const rowOf = (what: string, seconds: (of: (typeof took)[0]) => number[], least: number) => {
      const [ours, theirs] = took.map((of) => speed(requests, seconds(of)));
      return row(
        bench,
        `${name}: ${what}`,
        ours?.value ?? NaN,
        ours?.unit ?? '',
        { ratioAtLeast: least },
        { name: systems[1].name, value: theirs?.value },
      );
    };
    return [
      rowOf('write', ({ write }) => write.map((t) => t.requestsS), 1.2),
      rowOf('write, until durable', ({ write }) => write.map((t) => t.processS), 1.2),
      rowOf('read', ({ read }) => read.map((t) => t.requestsS), 1),
    ];
  });
}

function logPaths(directory: string, name: string, count: number): string[] {
  return Array.from({ length: count }, (_, i) => join(directory, `${name}-${i}.redo`));
}

/** Every block of the disk lies in one of many logs at random, or all of these writes went to one log. */
async function layerRows(directory: string, parent: Parent, repetitions: number): Promise<Row[]> {
  return rowsOf(bench, `${layers} layers`, async () => {
    const [many, one] = [layers, 1].map((count) => logPaths(directory, `of-${count}`, count));
    if (!many || !one) return [];
    for (const logs of [many, one]) await drive(['fill', parent.path, ...logs]);
    const rows: Row[] = [];
    for (const kind of kindsOf(parent).filter(({ name }) => name !== '4 KiB sequential')) {
      const requests = { ...kind.requests, depth: 1 };
      const [ofMany, ofOne]: [number[], number[]] = [[], []];
      for (let i = 0; i < repetitions; i++) {
        for (const [logs, seconds] of [
          [many, ofMany],
          [one, ofOne],
        ] as const) {
          await rest();
          const took = await drive(['read', ...requestArgs(requests), parent.path, ...logs]);
          seconds.push(took.requestsS);
        }
      }
      const { value, unit } = speed(requests, ofMany);
      const peer = { name: 'one layer', value: speed(requests, ofOne).value };
      const name = `${kind.name}, depth 1: read through ${layers} layers`;
      rows.push(row(bench, name, value, unit, { ratioAtLeast: 0.8 }, peer));
    }
    return rows;
  });
}

/** Half the disk has been written in pieces of 64 KiB at random, which is a cluster of the peer. */
async function commitRows(parent: Parent, repetitions: number): Promise<Row[]> {
  return rowsOf(bench, 'commit', async () => {
    const bytes = 64 * kib;
    const requests = {
      ...{ count: parent.bytes / (2 * bytes), bytes, depth: 1 },
      stepBytes: (Math.floor((parent.bytes / bytes) * 0.618034) | 1) * bytes,
    };
    const systems: [DiskSystem, DiskSystem] = [new RedoLog(parent.path), new Qcow2(parent.path)];
    const seconds: [number[], number[]] = [[], []];
    for (let i = 0; i < repetitions; i++) {
      for (const [n, system] of systems.entries()) {
        try {
          await system.write(requests);
          await rest();
          seconds[n]?.push((await system.commit()).processS);
        } finally {
          await system.remove();
        }
      }
    }
    const [ours, theirs] = seconds.map((all) => (requests.count * bytes) / median(all) / gib);
    const name = `commit of ${(requests.count * bytes) / mib} MiB in pieces of 64 KiB`;
    const peer = { name: systems[1].name, value: theirs };
    return [row(bench, name, ours ?? NaN, 'GiB/s', { ratioAtLeast: 1 }, peer)];
  });
}

/** The logs hold every block of the disk each, and an index of all of them. */
async function openRows(directory: string, parent: Parent, repetitions: number): Promise<Row[]> {
  return rowsOf(bench, 'opening', async () => {
    const logs = logPaths(directory, 'sealed', layers);
    await drive(['seal', parent.path, ...logs]);
    const ms: number[] = [];
    for (let i = 0; i < repetitions; i++) {
      await rest();
      ms.push((await drive(['open', parent.path, ...logs])).requestsS * 1000);
    }
    const name = `opening ${layers} sealed logs of ${parent.bytes / mib} MiB`;
    return [row(bench, name, median(ms), 'ms', { atMost: 100 })];
  });
}

/** All rows; `quick` only shows that they can be made. */
export async function disk(quick: boolean): Promise<Row[]> {
  const repetitions = quick ? 1 : 3;
  await buildDriver();
  const { path: directory, remove } = await temporaryDirectory();
  try {
    const parent = await makeParent(directory, quick ? 64 * mib : gib);
    const rows: Row[] = [];
    for (const kind of kindsOf(parent)) {
      for (const depth of depths) {
        rows.push(...(await requestRows(parent, kind, depth, repetitions)));
      }
    }
    rows.push(...(await commitRows(parent, repetitions)));
    rows.push(...(await layerRows(directory, parent, repetitions)));
    rows.push(...(await openRows(directory, parent, repetitions)));
    return rows;
  } finally {
    await remove();
  }
}
