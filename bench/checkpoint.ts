/** Live checkpoints of a Linux guest: what the guest feels, how fast they are, and what the VMM needs. */
import { execFile } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import type { Store } from '../src/checkpoint/store.js';
import { bareGuest, temporaryStore } from '../test/support/guests.js';
import { gib, mib } from './guest.js';
import { lostWork, traceEngines } from './lost_work.js';
import { pauses } from './pause.js';
import { sleep } from './progress.js';
import { row, type Row, rowsOf } from './row.js';
import { saveSpeed } from './save_speed.js';
import { ended, spawnTied } from './tied.js';

const main = fileURLToPath(new URL('../src/cli/main.js', import.meta.url));
const startMs = 3000;

/**
 * Memory in MiB of the process of `ckptfs run` after a checkpoint: everything resident but the guest's RAM,
 * which is shared memory.
 */
async function vmmMemory(store: Store): Promise<Row[]> {
  return rowsOf('checkpoint', 'memory of the VMM', async () => {
    const options = [main, '--store', store.root];
    const child = spawnTied(
      process.execPath,
      [
        ...[...options, 'run', '--name', 'own', '--memory', '512M', '--cpus', '2'],
        ...['--kernel', bareGuest('random-writer'), '--append', 'harts=2 mib=400'],
      ],
      ['pipe', 'ignore', 'inherit'],
    );
    const end = ended(child);
    try {
      await sleep(startMs);
      await promisify(execFile)(process.execPath, [...options, '-q', 'checkpoint', 'own']);
      const status = await readFile(`/proc/${child.pid}/status`, 'utf8');
      const kib = (name: string): number =>
        Number(new RegExp(`${name}:\\s+(\\d+)`).exec(status)?.[1]);
      const resident = (kib('RssAnon') + kib('RssFile')) / 1024;
      return [
        row('checkpoint', '512 MiB: memory of the VMM beside guest RAM', resident, 'MiB', {
          atMost: 96,
        }),
      ];
    } finally {
      child.kill('SIGKILL');
      await end;
      await store.removeVm('own');
    }
  });
}

/** All rows; `quick` only shows that they can be made. */
export async function checkpoint(quick: boolean): Promise<Row[]> {
  const { store, remove } = await temporaryStore();
  try {
    return [
      ...(await pauses(store, quick ? [512 * mib] : [512 * mib, 2 * gib, 8 * gib], quick ? 4 : 30)),
      ...(await lostWork(store, quick ? 1 : 3)),
      ...(await traceEngines(store, quick ? 1 : 3)),
      ...(await saveSpeed(store, quick ? gib / 2 : 2 * gib, quick ? 1 : 3)),
      ...(await vmmMemory(store)),
    ];
  } finally {
    await remove();
  }
}
