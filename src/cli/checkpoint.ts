/** ckptfs checkpoint: takes a checkpoint of a running VM. */
import { type Command, Option } from 'commander';
import { CkptError } from '../errors.js';
import { type Codec, codecs } from '../native.js';
import type { CheckpointRequest, CheckpointSummary } from '../types.js';
import { withContext } from './context.js';
import { Progress } from './progress.js';
import { formatSize, formatUs, parseRate } from './sizes.js';

interface CheckpointOptions {
  name?: string;
  live?: boolean;
  suspend?: boolean;
  drain?: boolean;
  inFlight?: boolean;
  full?: boolean;
  incremental?: boolean;
  compress?: Codec;
  limit?: number;
  wait: boolean;
}

export function registerCheckpoint(program: Command): void {
  program
    .command('checkpoint')
    .argument('<vm>', 'name of the VM')
    .description('take a checkpoint of a running VM; Ctrl-C cancels it')
    .option('--name <name>', 'name of the checkpoint (default: its time)')
    .option('--live', 'the VM runs during all but the pause (the default)')
    .option('--suspend', 'the VM stays paused afterwards: "ckptfs resume" lets it go on')
    .option('--drain', 'disk requests in flight are completed before the pause (the default)')
    .option('--in-flight', 'disk requests in flight become part of the checkpoint')
    .option('--incremental', 'refer to the last checkpoint for what has not changed (the default)')
    .option('--full', 'store all of memory')
    .addOption(
      new Option('--compress <codec>', 'compression of memory (default: lz4)').choices(codecs),
    )
    .option('--limit <rate>', 'store no more than that a second, such as 50M/s', parseRate)
    .option('--no-wait', 'return when the VM runs again; it is saved meanwhile')
    .action(
      withContext(async (context, options: CheckpointOptions, vm: string) => {
        const { completeRequest } = await import('../checkpoint/request.js');
        const request = completeRequest(requestOf(options));
        const store = await context.openStore();
        const client = await context.connect(store, vm);
        using progress = await Progress.begin(context.output, 'saving', 'blocks');
        const summary = await client.checkpoint(
          request,
          (at) => progress.update(at.blocksSaved, at.blocksTotal),
          context.signal,
        );
        progress.stop();
        context.output.result(summary, describeSummary(summary), `${summary.vm}@${summary.name}`);
        return undefined;
      }),
    );
}

/** The request that the options make. USAGE when two exclude each other. */
export function requestOf(options: CheckpointOptions): CheckpointRequest {
  const { name, live, suspend, drain, inFlight, full, incremental, compress, limit, wait } =
    options;
  for (const [one, other, names] of [
    [live, suspend, '--live and --suspend'],
    [drain, inFlight, '--drain and --in-flight'],
    [full, incremental, '--full and --incremental'],
  ] as const) {
    if (one && other) throw new CkptError('USAGE', `${names} exclude each other; give one of them`);
  }
  return {
    name,
    codec: compress,
    wait,
    suspend,
    drain: inFlight ? 'in-flight' : undefined,
    full,
    limitBytesPerSecond: limit,
  };
}

function describeSummary(summary: CheckpointSummary): string {
  const { vm, name, pauseUs, totalMs, memoryBytes, storedBytes, parentId } = summary;
  const pause = `pause ${formatUs(pauseUs)}`;
  if (summary.state === 'saving') return `${vm}@${name}: ${pause}, being saved`;
  return [
    `${vm}@${name}: ${pause}`,
    ...(totalMs === undefined ? [] : [`${formatUs(totalMs * 1000)} in all`]),
    ...(storedBytes === undefined
      ? []
      : [`${formatSize(storedBytes)} for ${formatSize(memoryBytes)} of memory`]),
    ...(parentId ? ['incremental'] : []),
  ].join(', ');
}
