/** ckptfs clone --to: a running VM copied to another store, in rounds. */
import { exitCodes } from '../errors.js';
import type { Codec } from '../native.js';
import type { ClonedTo, CloneToHooks, CloneToOptions } from '../transfer/clone_to.js';
import type { StartedThere } from '../transfer/start_there.js';
import type { Context } from './context.js';
import { Progress } from './progress.js';
import { formatMs, formatSize, formatUs } from './sizes.js';
import { type SshOptions, sshOptionsOf } from './ssh_options.js';

export interface CloneToCommandOptions extends SshOptions {
  name?: string;
  inFlight?: boolean;
  limit?: number;
  to: string;
  threshold?: number;
  maxRounds?: number;
  onDivergence?: 'go' | 'stop';
  compress?: Codec;
  start?: boolean;
}

/** The exit code: partly done when the clone is there and could not be started. */
export async function cloneThere(
  context: Context,
  options: CloneToCommandOptions,
  vm: string,
): Promise<number> {
  const { cloneTo } = await import('../transfer/clone_to.js');
  const { openTarget } = await import('../transfer/open.js');
  const { signal } = context;
  const store = await context.openStore();
  let path = '';
  const open = async (opening?: AbortSignal) => {
    const ssh = sshOptionsOf(options);
    const target = await openTarget(options.to, {
      create: true,
      ...ssh,
      ...(opening === undefined ? {} : { signal: opening }),
    });
    path = target.info.store;
    return target;
  };
  const done = await (async () => {
    using progress = await Progress.begin(context.output, `copying ${vm}`, 'bytes');
    return await cloneTo(store, vm, open, optionsOf(options), {
      signal,
      ...telling(context, vm, progress),
    });
  })();
  const checkpoint = `${done.vm}@${done.name}`;
  const hint = `"ckptfs restore ${checkpoint} --store ${path} --detach" there starts it`;
  if (options.start !== true) {
    tell(context, options.to, vm, done);
    context.output.note(`ckptfs: ${hint}`);
    return exitCodes.done;
  }
  try {
    tell(context, options.to, vm, done, await start(context, options, path, checkpoint));
    return exitCodes.done;
  } catch (error) {
    tell(context, options.to, vm, done);
    context.output.error(error);
    return signal.aborted ? context.interruptCode : exitCodes.partly;
  }
}

function optionsOf(options: CloneToCommandOptions): CloneToOptions {
  const { name, threshold, maxRounds, onDivergence, compress, limit, inFlight } = options;
  return {
    name,
    ...(threshold === undefined ? {} : { thresholdBytes: threshold }),
    ...(maxRounds === undefined ? {} : { maxRounds }),
    ...(onDivergence === undefined ? {} : { onDivergence }),
    request: {
      codec: compress,
      limitBytesPerSecond: limit,
      drain: inFlight === true ? 'in-flight' : undefined,
    },
  };
}

/** What is told while it goes on. */
function telling(context: Context, vm: string, progress: Progress): CloneToHooks {
  const { output } = context;
  let number = 0;
  const status = (value: object, text: string): void =>
    progress.aside(() => output.status({ vm, ...value }, `ckptfs: ${text}`));
  return {
    onName: (clone) => status({ event: 'cloning', clone }, `${vm} is copied as ${clone}`),
    onProgress: (done, total) => progress.update(done, total),
    onRound: ({ checkpoint, shippedBytes, ms, writtenBytes }, isLast) => {
      const { pauseUs } = checkpoint;
      number++;
      status(
        { event: 'round', round: number, isLast, shippedBytes, ms, writtenBytes, pauseUs },
        `round ${number}${isLast ? ', the last' : ''}: ${formatSize(shippedBytes)} in ${formatMs(ms)}, ` +
          `pause ${formatUs(pauseUs)}${isLast ? '' : `, ${formatSize(writtenBytes)} written meanwhile`}`,
      );
    },
    onDiverging: (rounds) => {
      const leftBytes = rounds.at(-1)?.writtenBytes ?? 0;
      status(
        { event: 'diverging', leftBytes },
        `the rounds do not converge: ${formatSize(leftBytes)} are left, and the next is the last all the same`,
      );
    },
    onLeft: (what, { code, message }) =>
      status({ event: 'left', what, code, message }, `${what} could not be removed: ${message}`),
  };
}

async function start(
  context: Context,
  options: CloneToCommandOptions,
  path: string,
  checkpoint: string,
): Promise<StartedThere> {
  const { parseDestination } = await import('../transfer/destination.js');
  const { startThere } = await import('../transfer/start_there.js');
  const program = [process.execPath, ...process.execArgv, process.argv[1] ?? ''];
  const ssh = { signal: context.signal, ...sshOptionsOf(options) };
  return startThere(parseDestination(options.to), { path, checkpoint, program }, ssh);
}

function tell(
  context: Context,
  to: string,
  of: string,
  done: ClonedTo,
  started?: StartedThere,
): void {
  const { vm, name, id, last, rounds, converged, lostWork, shippedBytes, totalMs } = done;
  const { pauseUs } = last.checkpoint;
  const value = {
    ...{ vm, name, id, of, to, rounds: rounds.length + 1, converged, shippedBytes, totalMs },
    ...{ pauseUs, lastBytes: last.shippedBytes, lastMs: last.ms, ...lostWork },
    state: started === undefined ? 'complete' : 'running',
    ...(started === undefined
      ? {}
      : { pid: started.pid, firstInstructionMs: started.firstInstructionMs }),
  };
  const text = [
    `${vm}@${name}: a clone of ${of} is ${started === undefined ? 'complete at' : 'running from'} ${to}`,
    `${rounds.length + 1} rounds`,
    `${formatSize(shippedBytes)} in ${formatMs(totalMs)}`,
    `last pause ${formatUs(pauseUs)}`,
    `${of} lost ${formatMs(lostWork.lostMs)} of work in ${formatMs(lostWork.watchedMs)}`,
    ...(started === undefined ? [] : [`pid ${started.pid}`]),
  ].join(', ');
  context.output.result(value, text, `${vm}@${name}`);
}
