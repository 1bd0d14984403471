/**
 * How fast a checkpoint becomes durable: beside a plain copy of the same RAM to the same disk with fsync, while
 * the guest stands still, so that only the saving is measured; and an incremental one after 1 % of
 * the memory blocks were written, beside a full one of the same guest.
 */
import { execFile } from 'node:child_process';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { Store } from '../src/checkpoint/store.js';
import { Ckptfs } from './ckptfs.js';
import { rest } from './device.js';
import { fullGuest, gib, mib } from './guest.js';
import { median, row, type Row, rowsOf } from './row.js';

const bench = 'checkpoint';
const blockBytes = 32 << 10;
const run = promisify(execFile);

/** Seconds that cp and fsync take. Holes of RAM stay holes, as in a checkpoint. */
async function copySeconds(ram: string, file: string): Promise<number> {
  await rm(file, { force: true });
  await rest();
  const began = performance.now();
  await run('cp', ['--sparse=auto', ram, file]);
  await run('sync', [file]);
  const seconds = (performance.now() - began) / 1000;
  await rm(file);
  return seconds;
}

export async function saveSpeed(store: Store, bytes: number, repetitions: number): Promise<Row[]> {
  return rowsOf(bench, 'save throughput', async () => {
    const workload = fullGuest(bytes);
    const size = `${bytes / gib} GiB`;
    const ckptfs = await Ckptfs.start(store, 'speed', workload);
    try {
      const guest = await ckptfs.guest();
      await ckptfs.vm.pause();
      const copies: number[] = [];
      const seconds: { none: number[]; lz4: number[] } = { none: [], lz4: [] };
      for (let i = 0; i < repetitions; i++) {
        copies.push(await copySeconds(guest.ram.path, join(store.root, 'copy')));
        for (const codec of ['none', 'lz4'] as const) {
          await rest();
          const { totalMs = 0, entry } = await ckptfs.save({ codec, full: true });
          seconds[codec].push(totalMs / 1000);
          await ckptfs.remove(entry);
        }
      }
      ckptfs.vm.resume();
      const speed = (of: number[]) => workload.filledMib / 1024 / median(of);
      const peer = { name: 'cp and fsync', value: speed(copies) };
      const rows = [
        row(
          bench,
          `${size}, guest still: save, uncompressed`,
          speed(seconds.none),
          'GiB/s',
          { ratioAtLeast: 1 },
          peer,
        ),
        row(
          bench,
          `${size}, guest still: save, LZ4 on pages half random`,
          speed(seconds.lz4),
          'GiB/s',
          { ratioAtLeast: 1.5 },
          peer,
        ),
      ];

      const [incrementalBytes, incrementalS, fullBytes, fullS]: number[][] = [[], [], [], []];
      for (let i = 0; i < repetitions; i++) {
        await rest();
        const full = await ckptfs.save({ codec: 'lz4', full: true });
        await rest();
        await guest.touch(bytes / blockBytes / 100);
        const second = await ckptfs.save({ codec: 'lz4' });
        fullBytes?.push(full.storedBytes ?? 0);
        fullS?.push((full.totalMs ?? 0) / 1000);
        incrementalBytes?.push(second.storedBytes ?? 0);
        incrementalS?.push((second.totalMs ?? 0) / 1000);
        await ckptfs.remove(second.entry);
        await ckptfs.remove(full.entry);
      }
      rows.push(
        row(
          bench,
          `${size}, 1 % of blocks written: stored`,
          median(incrementalBytes ?? []) / mib,
          'MiB',
          { ratioAtMost: 0.05 },
          { name: 'full', value: median(fullBytes ?? []) / mib },
        ),
        row(
          bench,
          `${size}, 1 % of blocks written: until saved`,
          median(incrementalS ?? []),
          's',
          { ratioAtMost: 0.05 },
          { name: 'full', value: median(fullS ?? []) },
        ),
      );
      return rows;
    } finally {
      await ckptfs.close();
      await store.removeVm('speed');
    }
  });
}
