/** Restoring a 512 MiB guest, lazily beside eagerly: time to its first instruction, and to all its memory. */
import { findCheckpoint } from '../src/checkpoint/checkpoints.js';
import { Vm } from '../src/vmm/vm.js';
import { bareConfig, boot, temporaryStore } from '../test/support/guests.js';
import { median, percentile, row, type Row } from './row.js';

const repetitions = 7;
const mib = 2 ** 20;
const pollMs = 5;
const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

export async function restore(): Promise<Row[]> {
  const { store, remove } = await temporaryStore();
  try {
    const { vm, watch } = await boot(
      store,
      bareConfig('random-writer', 'harts=2 mib=480', {
        name: 'writer',
        cpus: 2,
        memoryBytes: 512 * mib,
      }),
    );
    await watch.printed(/random-writer/);
    await sleep(20_000); // until most of RAM has been written
    await vm.checkpoint({ name: 'full', codec: 'lz4', wait: true });
    await vm.close();
    const entry = await findCheckpoint(store, 'writer@full');

    const measure = async (lazy: boolean) => {
      const first: number[] = [];
      const complete: number[] = [];
      for (let i = 0; i < repetitions; i++) {
        const restored = await Vm.restore(store, entry, { lazy });
        await restored.start();
        let progress = restored.restoreProgress();
        while (!progress?.done || progress.firstInstructionUs === 0) {
          await sleep(pollMs);
          progress = restored.restoreProgress();
        }
        first.push(progress.firstInstructionUs / 1000);
        complete.push(progress.completeUs / 1000);
        await restored.close();
      }
      return { first, complete };
    };
    const eager = await measure(false);
    const lazy = await measure(true);
    const peer = { name: 'eager', value: median(eager.first) };
    return [
      row(
        'restore',
        '512 MiB lazy: first instruction',
        median(lazy.first),
        'ms',
        { atMost: 50 },
        peer,
      ),
      row('restore', '512 MiB lazy: first instruction, longest', percentile(lazy.first, 1), 'ms'),
      row(
        'restore',
        '512 MiB lazy: all memory loaded',
        median(lazy.complete),
        'ms',
        {},
        {
          name: 'eager',
          value: median(eager.complete),
        },
      ),
    ];
  } finally {
    await remove();
  }
}
