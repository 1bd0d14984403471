/**
 * A live checkpoint of a 512 MiB guest under a random writer on two harts: the pause, the guest's work lost,
 * the time until it is durable beside a plain copy of the same RAM, and the memory of the VMM.
 */
import { execFile } from 'node:child_process';
import { open, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { findCheckpoint, removeCheckpoint } from '../src/checkpoint/checkpoints.js';
import type { Codec } from '../src/native.js';
import type { CheckpointSummary } from '../src/types.js';
import { bareConfig, bareGuest, boot, temporaryStore } from '../test/support/guests.js';
import { longestStallMs, lostWorkMs, rate, sampleDuring } from './progress.js';
import { median, percentile, row, type Row } from './row.js';

const repetitions = 7;
const mib = 2 ** 20;
const memoryBytes = 512 * mib;
const sampleMs = 5;
const baselineMs = 1500;
const main = fileURLToPath(new URL('../src/cli/main.js', import.meta.url));
const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

/**
 * Memory in MiB of the process of `ckptfs run` after a checkpoint: everything resident but the guest's RAM,
 * which is shared memory.
 */
async function vmmMib(store: string): Promise<number> {
  const ckptfs = async (...args: string[]): Promise<string> => {
    const options = ['--store', store, '--json'];
    return (await promisify(execFile)(process.execPath, [main, ...options, ...args])).stdout;
  };
  await ckptfs(
    ...['run', '--name', 'own', '--detach', '--memory', '512M', '--cpus', '2'],
    ...['--kernel', bareGuest('random-writer'), '--append', 'harts=2 mib=400'],
  );
  try {
    await sleep(baselineMs);
    await ckptfs('checkpoint', 'own');
    const { pid } = JSON.parse(await ckptfs('info', 'own')) as { pid: number };
    const status = await readFile(`/proc/${pid}/status`, 'utf8');
    const kib = (name: string): number =>
      Number(new RegExp(`${name}:\\s+(\\d+)`).exec(status)?.[1]);
    return (kib('RssAnon') + kib('RssFile')) / 1024;
  } finally {
    await ckptfs('stop', 'own');
  }
}

export async function checkpoint(): Promise<Row[]> {
  const { store, remove } = await temporaryStore();
  const rows: Row[] = [];
  try {
    const { vm, watch } = await boot(
      store,
      bareConfig('random-writer', 'harts=2 mib=480', { name: 'writer', cpus: 2, memoryBytes }),
    );
    await watch.printed(/random-writer/);
    const memory = vm.memory();
    await sleep(20_000); // until most of RAM has been written
    for (const codec of ['lz4', 'none'] satisfies Codec[]) {
      const pauses: number[] = [];
      const lost: number[] = [];
      const stalls: number[] = [];
      const speeds: number[] = [];
      const totals: number[] = [];
      const arms: number[] = [];
      let last: CheckpointSummary | undefined;
      for (let i = 0; i < repetitions; i++) {
        const before = await sampleDuring(memory, sampleMs, 0, () => sleep(baselineMs));
        const baseline = rate(before.samples);
        const { result, samples } = await sampleDuring(memory, sampleMs, 300, () =>
          vm.checkpoint({ name: `c${i}`, codec, wait: true }),
        );
        pauses.push(result.pauseUs / 1000);
        totals.push((result.totalMs ?? 0) / 1000);
        lost.push(lostWorkMs(samples, baseline));
        stalls.push(longestStallMs(samples));
        speeds.push((rate(samples) / baseline) * 100);
        const entry = await findCheckpoint(store, `writer@c${i}`);
        arms.push((entry.manifest?.stats.phasesUs.arm ?? 0) / 1000);
        await removeCheckpoint(store, entry);
        last = result;
      }
      const name = `512 MiB, ${codec}`;
      rows.push(
        row('checkpoint', `${name}: pause, median`, median(pauses), 'ms', { atMost: 20 }),
        row('checkpoint', `${name}: pause, longest`, percentile(pauses, 1), 'ms'),
        row('checkpoint', `${name}: of it arming traces`, median(arms), 'ms'),
        row('checkpoint', `${name}: guest work lost`, median(lost), 'ms'),
        row(
          'checkpoint',
          `${name}: longest stall of the guest, of all`,
          percentile(stalls, 1),
          'ms',
          {
            atMost: 100,
          },
        ),
        row('checkpoint', `${name}: guest speed during the save`, median(speeds), '% of before'),
        row(
          'checkpoint',
          `${name}: until durable`,
          median(totals),
          's',
          {},
          {
            name: 'plain copy of RAM and fsync',
            value: await plainCopySeconds(memory, join(store.root, 'copy')),
          },
        ),
        row('checkpoint', `${name}: stored`, (last?.storedBytes ?? 0) / mib, 'MiB'),
      );
    }
    memory.close();
    await vm.close();
    rows.push(
      row('checkpoint', 'memory of the VMM beside guest RAM', await vmmMib(store.root), 'MiB', {
        atMost: 96,
      }),
    );
  } finally {
    await remove();
  }
  return rows;
}

async function plainCopySeconds(
  memory: { bytes: number; read(into: Uint8Array, position: number): Promise<number> },
  path: string,
): Promise<number> {
  const piece = Buffer.alloc(8 * mib);
  await writeFile(path, '');
  const file = await open(path, 'r+');
  const began = performance.now();
  for (let position = 0; position < memory.bytes;) {
    const length = await memory.read(piece, position);
    await file.write(piece, 0, length, position);
    position += length;
  }
  await file.sync();
  const seconds = (performance.now() - began) / 1000;
  await file.close();
  return seconds;
}
