/** ckptfs checkpoint: takes a live checkpoint of a running VM. */
import { type Command, Option } from 'commander';
import type { CheckpointSummary } from '../types.js';
import type { Codec } from '../native.js';
import { withContext } from './context.js';
import { Progress } from './progress.js';
import { formatSize, formatUs } from './sizes.js';

interface CheckpointOptions {
  name?: string;
  compress: Codec;
  wait: boolean;
}

export function registerCheckpoint(program: Command): void {
  program
    .command('checkpoint')
    .argument('<vm>', 'name of the VM')
    .description('take a checkpoint of a running VM; Ctrl-C cancels it')
    .option('--name <name>', 'name of the checkpoint (default: its time)')
    .option('--live', 'the VM runs during all but the pause (the default)')
    .option('--drain', 'disk requests in flight are completed in the pause (the default)')
    .option('--full', 'all of memory is stored (the default)')
    .addOption(
      new Option('--compress <codec>', 'compression of memory')
        .choices(['lz4', 'none'])
        .default('lz4'),
    )
    .option('--no-wait', 'return when the VM runs again; it is saved meanwhile')
    .action(
      withContext(async (context, options: CheckpointOptions, vm: string) => {
        const store = await context.openStore();
        const client = await context.connect(store, vm);
        const { name, compress, wait } = options;
        if (name !== undefined) {
          const { checkName } = await import('../checkpoint/names.js');
          checkName('checkpoint', name);
        }
        using progress = await Progress.begin(context.output, 'saving', 'blocks');
        const summary = await client.checkpoint(
          { ...(name === undefined ? {} : { name }), codec: compress, wait },
          (at) => progress.update(at.blocksSaved, at.blocksTotal),
          context.signal,
        );
        progress.stop();
        context.output.result(summary, describeSummary(summary), `${summary.vm}@${summary.name}`);
        return undefined;
      }),
    );
}

function describeSummary(summary: CheckpointSummary): string {
  const { vm, name, pauseUs, totalMs, memoryBytes, storedBytes } = summary;
  const pause = `pause ${formatUs(pauseUs)}`;
  if (summary.state === 'saving') return `${vm}@${name}: ${pause}, being saved`;
  return [
    `${vm}@${name}: ${pause}`,
    ...(totalMs === undefined ? [] : [`${formatUs(totalMs * 1000)} in all`]),
    ...(storedBytes === undefined
      ? []
      : [`${formatSize(storedBytes)} for ${formatSize(memoryBytes)} of memory`]),
  ].join(', ');
}
