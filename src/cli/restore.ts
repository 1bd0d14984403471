/** ckptfs restore: a VM goes on from a checkpoint. */
import { setTimeout } from 'node:timers/promises';
import type { Command } from 'commander';
import type { Store } from '../checkpoint/store.js';
import { CkptError } from '../errors.js';
import type { RestoreProgress } from '../native.js';
import type { VmStatus } from '../types.js';
import type { RestoreOptions as VmRestoreOptions } from '../vmm/vm.js';
import { inBackground } from './background.js';
import { type Context, withContext } from './context.js';
import { formatUs, parseRate } from './sizes.js';

const pollMs = 50;

export interface RestoreOptions {
  name?: string;
  eager?: boolean;
  lazy?: boolean;
  mount?: string;
  mountOptions?: string;
  detach?: boolean;
  wait: boolean;
  exitCode?: boolean;
  limit?: number;
}

export function registerRestore(program: Command): void {
  program
    .command('restore')
    .argument('<ckpt>', 'the checkpoint')
    .description('let a VM go on from a checkpoint')
    .option('--name <name>', 'name of the VM (default: the one the checkpoint was taken of)')
    .option('--lazy', 'the guest runs before its memory is loaded (the default)')
    .option('--eager', 'all memory is loaded first')
    .option('--limit <rate>', 'load no more than that a second in the background', parseRate)
    .option('--mount <dir>', 'serve the VM as files there while it runs')
    .option('--mount-options <list>', 'as -o of ckptfs mount: rw, say')
    .option('--detach', 'run in the background; returns when all memory is loaded')
    .option('--no-wait', 'with --detach: return when the guest runs')
    .option('--exit-code', 'end with 0 if the guest powers off with reason 0, else with 1')
    .addHelpText(
      'after',
      '\nThe VM gets the disks as they were: in place, without --name, later changes to them are lost.',
    )
    .action(
      withContext(async (context, options: RestoreOptions, reference: string) => {
        refuseBoth(options);
        return restoring(context, options, () => restoreProcess(context, reference, options));
      }),
    );
}

/** USAGE when both ways of loading are asked for. */
export function refuseBoth({ lazy, eager }: Pick<RestoreOptions, 'lazy' | 'eager'>): void {
  if (lazy !== true || eager !== true) return;
  throw new CkptError('USAGE', '--lazy and --eager exclude each other; give one of them');
}

/** Runs `start`, which restores a VM, here; with --detach in the background, and tells how far it has come. */
export function restoring(
  context: Context,
  { detach, wait }: Pick<RestoreOptions, 'detach' | 'wait'>,
  start: () => Promise<number>,
): Promise<number | undefined> {
  return inBackground(context, detach, start, (vm, pid) => tellRestored(context, vm, pid, wait));
}

/** The options of the command as those of the VM. */
export function vmOptionsOf({ name, eager, limit }: RestoreOptions): VmRestoreOptions {
  return {
    ...(name === undefined ? {} : { name }),
    lazy: eager !== true,
    limitBytesPerSecond: limit,
  };
}

async function restoreProcess(
  context: Context,
  reference: string,
  options: RestoreOptions,
): Promise<number> {
  const { findCheckpoint } = await import('../checkpoint/checkpoints.js');
  const { Vm } = await import('../vmm/vm.js');
  const { runProcess } = await import('./foreground.js');
  const store = await context.openStore();
  const entry = await findCheckpoint(store, reference);
  const vm = await Vm.restore(store, entry, vmOptionsOf(options));
  return runProcess(context, store, vm, options);
}

/** Follows the restore in the VM's process and prints its result. */
async function tellRestored(
  context: Context,
  vm: string,
  pid: number,
  wait: boolean,
): Promise<void> {
  const { Progress } = await import('./progress.js');
  const { restoreResult } = await import('./foreground.js');
  const store = await context.openStore();
  const progress = await (async () => {
    using bar = await Progress.begin(context.output, 'loading', 'blocks');
    return await follow(context, store, vm, (at) => {
      const { total, demand, prefetched, zero } = at.blocks;
      bar.update(demand + prefetched + zero, total);
      return at.done || (!wait && at.firstInstructionUs > 0);
    });
  })();
  const first = progress && formatUs(progress.firstInstructionUs);
  const complete = progress?.done ? `, memory complete after ${formatUs(progress.completeUs)}` : '';
  context.output.result(
    { vm, pid, state: 'running', ...restoreResult(progress), checkpointId: progress?.id },
    `${vm} is running (pid ${pid})${first ? `, first instruction after ${first}` : ''}${complete}`,
    vm,
  );
}

/** Asks the VM for its restore until `enough`; a VM that has ended meanwhile gives what was known last. */
async function follow(
  context: Context,
  store: Store,
  vm: string,
  enough: (progress: RestoreProgress) => boolean,
): Promise<VmStatus['restore']> {
  let last: VmStatus['restore'];
  try {
    const client = await context.connect(store, vm);
    for (;;) {
      const { restore, error } = await client.status();
      last = restore;
      if (restore === undefined || enough(restore)) return restore;
      if (error !== undefined) throw new CkptError('DAMAGED', `${vm}: ${error}`, { vm });
      await setTimeout(pollMs);
    }
  } catch (error) {
    if (error instanceof CkptError && error.code === 'NOT_FOUND') return last;
    throw error;
  }
}
