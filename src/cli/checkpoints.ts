/** ckptfs checkpoints: the checkpoints of one VM or of all, oldest first. */
import type { Command } from 'commander';
import type { CheckpointEntry } from '../checkpoint/checkpoints.js';
import { withContext } from './context.js';
import { formatSize, formatTime, formatUs } from './sizes.js';

/** Enough digits of an id to tell checkpoints apart by eye. */
const shortIdLength = 12;

/** A checkpoint in a listing; a damaged one has only what its directory tells. */
interface CheckpointRow {
  vm: string;
  name: string;
  createdAt: string;
  id?: string;
  memoryBytes?: number;
  storedBytes?: number;
  pauseUs?: number;
  damage?: string;
}

function toRow(entry: CheckpointEntry): CheckpointRow {
  const { vm, name, createdAt, manifest, damage } = entry;
  return {
    vm,
    name,
    createdAt: createdAt.toISOString(),
    ...(manifest === undefined
      ? {}
      : {
          id: manifest.id,
          memoryBytes: manifest.memoryBytes,
          storedBytes: manifest.stats.storedBytes,
          pauseUs: manifest.stats.pauseUs,
        }),
    ...(damage === undefined ? {} : { damage: damage.message }),
  };
}

export function registerCheckpoints(program: Command): void {
  program
    .command('checkpoints')
    .argument('[vm]', 'name of a VM (default: all)')
    .description('list checkpoints, oldest first')
    .action(
      withContext(async (context, _options: object, vm?: string) => {
        const { listAllCheckpoints, listCheckpoints } =
          await import('../checkpoint/checkpoints.js');
        const store = await context.openStore();
        if (vm !== undefined) await store.needVm(vm);
        const entries = await (vm === undefined
          ? listAllCheckpoints(store)
          : listCheckpoints(store, vm));
        const size = (bytes?: number) => (bytes === undefined ? '-' : formatSize(bytes));
        context.output.results(entries.map(toRow), {
          columns: [
            { title: 'CHECKPOINT', value: (row) => `${row.vm}@${row.name}` },
            {
              title: 'ID',
              value: (row) => row.id?.slice(0, shortIdLength) ?? '-',
            },
            { title: 'TIME', value: (row) => formatTime(new Date(row.createdAt)) },
            { title: 'MEMORY', value: (row) => size(row.memoryBytes), right: true },
            { title: 'STORED', value: (row) => size(row.storedBytes), right: true },
            {
              title: 'PAUSE',
              value: (row) => (row.pauseUs === undefined ? 'damaged' : formatUs(row.pauseUs)),
              right: true,
            },
          ],
          brief: (row) => `${row.vm}@${row.name}`,
          none: 'no checkpoints; take one with "ckptfs checkpoint VM"',
        });
        return undefined;
      }),
    );
}
