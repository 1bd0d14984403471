/** ckptfs checkpoint: takes a checkpoint of a running VM, or of several at one moment. */
import { type Command, Option } from 'commander';
import { CkptError } from '../errors.js';
import { type Codec, codecs, type SaveProgress } from '../native.js';
import type { CheckpointRequest, CheckpointSummary } from '../types.js';
import type { Store } from '../checkpoint/store.js';
import type { CompleteRequest } from '../checkpoint/request.js';
import { type Context, withContext } from './context.js';
import { Progress } from './progress.js';
import { formatSize, formatUs, parseRate } from './sizes.js';

interface CheckpointOptions {
  name?: string;
  live?: boolean;
  suspend?: boolean;
  drain?: boolean;
  inFlight?: boolean;
  full?: boolean;
  copyDisks?: boolean;
  incremental?: boolean;
  compress?: Codec;
  limit?: number;
  wait: boolean;
}

export function registerCheckpoint(program: Command): void {
  program
    .command('checkpoint')
    .argument('<vm...>', 'name of the VM, or of several that are all paused at once')
    .description(
      'take a checkpoint of a running VM, or of several at one moment; Ctrl-C cancels it',
    )
    .option('--name <name>', 'name of the checkpoint, with several VMs of each (default: its time)')
    .option('--live', 'the VM runs during all but the pause (the default)')
    .option('--suspend', 'the VM stays paused afterwards: "ckptfs resume" lets it go on')
    .option('--drain', 'disk requests in flight are completed before the pause (the default)')
    .option('--in-flight', 'disk requests in flight become part of the checkpoint')
    .option('--incremental', 'refer to the last checkpoint for what has not changed (the default)')
    .option('--full', 'store all of memory')
    .option('--copy-disks', 'copy the parents of the disks too: it then needs no file but its own')
    .addOption(
      new Option('--compress <codec>', 'compression of memory (default: lz4)').choices(codecs),
    )
    .option('--limit <rate>', 'store no more than that a second, such as 50M/s', parseRate)
    .option('--no-wait', 'return when the VM runs again; it is saved meanwhile')
    .action(
      withContext(async (context, options: CheckpointOptions, vms: string[]) => {
        const { completeRequest } = await import('../checkpoint/request.js');
        const request = completeRequest(requestOf(options));
        const store = await context.openStore();
        const summaries = await takeAll(context, store, vms, request);
        for (const summary of summaries) {
          context.output.result(summary, describeSummary(summary), `${summary.vm}@${summary.name}`);
        }
        return undefined;
      }),
    );
}

/** One checkpoint, or a group of them. */
async function takeAll(
  context: Context,
  store: Store,
  vms: string[],
  request: CompleteRequest,
): Promise<CheckpointSummary[]> {
  if (vms.length > 1 && !request.wait) {
    throw new CkptError('USAGE', '--no-wait is for one VM; leave it out, or take them one by one');
  }
  const clients = await Promise.all(vms.map((vm) => context.connect(store, vm)));
  using progress = await Progress.begin(context.output, 'saving', 'blocks');
  const onProgress = (at: SaveProgress): void => progress.update(at.blocksSaved, at.blocksTotal);
  const [first, second] = clients;
  if (first !== undefined && second === undefined) {
    return [await first.checkpoint(request, onProgress, context.signal)];
  }
  const { checkpointTogether } = await import('../vmm/together.js');
  const hooks = { onProgress, signal: context.signal };
  return (await checkpointTogether(clients, request, hooks)).checkpoints;
}

/** The request that the options make. USAGE when two exclude each other. */
export function requestOf(options: CheckpointOptions): CheckpointRequest {
  const {
    name,
    live,
    suspend,
    drain,
    inFlight,
    full,
    incremental,
    compress,
    limit,
    wait,
    copyDisks,
  } = options;
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
    copyDisks,
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
