/**
 * A VM process: serves a VM from its start to its end, in the foreground with the console on the terminal,
 * or as the background child of `--detach`. Owns the VM and its mount; both end on every path.
 */
import { setTimeout } from 'node:timers/promises';
import type { Store } from '../checkpoint/store.js';
import { CkptError, exitCodes } from '../errors.js';
import type { Mount } from '../fs/mount.js';
import type { GuestExit, RestoreProgress } from '../native.js';
import type { CheckpointEvent } from '../types.js';
import type { Vm } from '../vmm/vm.js';
import type { Context } from './context.js';
import { isDetachedChild, reportReady } from './detach.js';
import { notifyReady } from './notify.js';
import { Output } from './output.js';
import { attachTerminal, consolePrinter } from './terminal.js';

const restorePollMs = 20;

export interface ProcessOptions {
  /** The guest's own exit reason becomes the exit code. */
  exitCode?: boolean;
  mount?: string;
  /** As -o of `ckptfs mount`. */
  mountOptions?: string;
}

/** How the VM came to its end. */
type Ending =
  | { kind: 'exit'; exit: GuestExit }
  | { kind: 'left' }
  | { kind: 'interrupted' }
  | { kind: 'failed'; error: unknown };

/** Runs a created or restored VM until it ends; resolves with the exit code. */
export async function runProcess(
  context: Context,
  store: Store,
  vm: Vm,
  options: ProcessOptions,
): Promise<number> {
  let mounted: Mount | undefined;
  const declareCheckpoint = (): void => vm.declareCheckpoint();
  using attachment = isDetachedChild()
    ? undefined
    : attachTerminal((bytes) => vm.consoleInput(bytes));
  try {
    // In the background what --json prints goes nowhere; process.log is for people.
    const output = attachment ? context.output : new Output({ verbose: context.output.verbose });
    vm.on('checkpoint', (event) => tellCheckpoint(output, vm.name, event));
    process.on('SIGUSR1', declareCheckpoint);
    const ending = watchEnding(context, output, vm, attachment?.left);
    if (attachment) vm.on('console', consolePrinter(context, vm.name));
    await refuseMount(store, options);
    await vm.serve();
    await vm.start();
    // A mount takes its time: the guest does not wait for it.
    if (options.mount !== undefined) {
      mounted = await mountVm(context, store, vm, options.mount, options.mountOptions);
    }
    if (attachment) await notifyReady(context, `${vm.name} runs`);
    else await reportReady(vm.name, store.processLog(vm.name));
    const restored = watchRestore(context, vm);
    const ended = await ending;
    // The guest's own end takes away neither a checkpoint that was taken of it before nor its disks, if they still arrive.
    if (ended.kind === 'exit') await Promise.race([vm.saved(), aborted(context.signal)]);
    const instructions = instructionsOf(vm);
    await mounted?.unmount();
    mounted = undefined;
    await (ended.kind === 'exit' ? vm.close() : vm.stop());
    const restore = await restored;
    if (ended.kind === 'failed') throw ended.error;
    const exit = ended.kind === 'exit' ? ended.exit : undefined;
    const text = `${vm.name}: ${exit ? `${exit.kind}, reason ${exit.reason}` : 'stopped'}`;
    const value = { vm: vm.name, exit: exit ?? null, instructions };
    // Beside the guest's console, people get this only when they ask for more.
    if (context.output.json) context.output.result({ ...value, ...restoreResult(restore) }, text);
    else context.output.detail(text);
    return exitCodeOf(context, ended, options);
  } finally {
    process.off('SIGUSR1', declareCheckpoint);
    await mounted?.unmount();
    await vm.close();
  }
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    signal.addEventListener('abort', () => resolve(), { once: true });
    if (signal.aborted) resolve();
  });
}

/** What the guest has run; null when the VM was closed by somebody else. */
function instructionsOf(vm: Vm): number | null {
  try {
    return vm.status().instructions;
  } catch {
    return null;
  }
}

/** Requirement of `--exit-code`: 0 for a power-off with reason 0, 1 for any other end. */
function exitCodeOf(context: Context, ended: Ending, options: ProcessOptions): number {
  if (ended.kind === 'interrupted') return context.interruptCode;
  if (ended.kind === 'exit' && ended.exit.kind === 'failure') return exitCodes.failed;
  if (options.exitCode !== true) return exitCodes.done;
  const isClean =
    ended.kind === 'exit' && ended.exit.kind === 'shutdown' && ended.exit.reason === 0;
  return isClean ? exitCodes.done : exitCodes.failed;
}

/** Resolves with whatever ends the VM first. Must be called before the VM starts. */
function watchEnding(
  context: Context,
  output: Output,
  vm: Vm,
  left: Promise<void> | undefined,
): Promise<Ending> {
  return new Promise((resolve) => {
    vm.once('exit', (exit) => resolve({ kind: 'exit', exit }));
    vm.on('error', (error) => {
      // A guest that can go on does; in the background a failed VM stays, to be looked at.
      if (vm.status().state === 'failed' && !isDetachedChild()) resolve({ kind: 'failed', error });
      else output.error(error);
    });
    void left?.then(() => resolve({ kind: 'left' }));
    context.signal.addEventListener('abort', () => resolve({ kind: 'interrupted' }));
    if (context.signal.aborted) resolve({ kind: 'interrupted' });
  });
}

/** Tells of a checkpoint, and in any case of one that has failed or was missed. */
function tellCheckpoint(output: Output, vm: string, { type, ...what }: CheckpointEvent): void {
  const value = { vm, event: `checkpoint ${type}`, ...what };
  if ('failure' in what) {
    const { name, message } = what.failure;
    output.status(value, `ckptfs: ${vm}${name && `@${name}`}: checkpoint failed: ${message}`);
  } else if ('why' in what) {
    output.status(value, `ckptfs: ${vm}: checkpoint missed: ${what.why}`);
  } else {
    output.status(value);
    output.detail(`ckptfs: ${vm}@${what.checkpoint.name}: published`);
  }
}

/** Refuses what cannot be mounted before the guest runs. */
async function refuseMount(store: Store, { mount, mountOptions }: ProcessOptions): Promise<void> {
  if (mount === undefined && mountOptions === undefined) return;
  const { checkMountpoint, parseMountOptions } = await import('../fs/mount.js');
  if (mount === undefined) {
    throw new CkptError('USAGE', '--mount-options are for a mount; give --mount too');
  }
  parseMountOptions(mountOptions ?? '');
  await checkMountpoint(mount, store.root);
}

async function mountVm(
  context: Context,
  store: Store,
  vm: Vm,
  directory: string,
  options = '',
): Promise<Mount> {
  const { mount, parseMountOptions } = await import('../fs/mount.js');
  const { storeView } = await import('../fs/store_view.js');
  const mounted = await mount(storeView(store, vm), directory, {
    ...parseMountOptions(options),
    onError: (line) => context.output.note(`ckptfs: ${line}`),
  });
  vm.mountpoint = mounted.directory;
  void mounted.gone.then(() => (vm.mountpoint = undefined));
  return mounted;
}

/** Follows a restore to its completion, tells of it once, and resolves with its last known progress. */
async function watchRestore(context: Context, vm: Vm): Promise<RestoreProgress | undefined> {
  let progress = vm.restoreProgress();
  while (progress !== undefined && !progress.done) {
    await setTimeout(restorePollMs, undefined, { ref: false });
    try {
      progress = vm.restoreProgress() ?? progress;
    } catch {
      // The VM has ended before its restore was complete.
      return progress;
    }
  }
  if (progress !== undefined) {
    context.output.status({ vm: vm.name, event: 'restored', ...restoreResult(progress) });
  }
  return progress;
}

/** The result of `restore`, in the units of the interface. Times that are not known yet are null. */
export function restoreResult(progress: RestoreProgress | undefined): object {
  if (progress === undefined) return {};
  const { firstInstructionUs, completeUs, blocks, faults } = progress;
  return {
    firstInstructionMs: firstInstructionUs > 0 ? firstInstructionUs / 1000 : null,
    completeMs: completeUs > 0 ? completeUs / 1000 : null,
    blocks: { demand: blocks.demand, prefetched: blocks.prefetched },
    faults,
  };
}
