/** ckptfs protect: checkpoints of VMs at intervals, each sent to a second place, in the foreground. */
import { constants, getPriority, setPriority } from 'node:os';
import { type Command, Option } from 'commander';
import type { Store } from '../checkpoint/store.js';
import { CkptError } from '../errors.js';
import { type Codec, codecs } from '../native.js';
import type { ProtectEvent } from '../protect/events.js';
import type { ProtectOptions } from '../protect/protect.js';
import { type Context, withContext } from './context.js';
import { notifyReady } from './notify.js';
import { describeProtection, protectionTable } from './protection.js';
import {
  formatMs,
  formatSize,
  formatUs,
  parseCount,
  parseInterval,
  parseRate,
  parseSize,
} from './sizes.js';
import { addSshOptions, destinationHelp, type SshOptions, sshOptionsOf } from './ssh_options.js';

interface Options extends SshOptions {
  to?: string;
  every: number;
  afterWritten?: number;
  keep?: number;
  commit?: number | true;
  compress?: Codec;
  limit?: number;
  inFlight?: boolean;
  status?: boolean;
}

export function registerProtect(program: Command): void {
  const command = program
    .command('protect')
    .argument('[vms...]', 'names of VMs')
    .option('--to <dest>', destinationHelp)
    .option('--every <interval>', 'between two checkpoints (default: 10m)', parseInterval, 600)
    .option('--after-written <size>', 'also when so much memory has been written', (text) =>
      parseSize(text),
    )
    .option('--keep <n>', 'keep the newest n of its checkpoints on both sides', (text: string) =>
      parseCount(text, 'number of checkpoints', 1),
    )
    .option(
      '--commit [size]',
      'commit redo logs that have been sent, once they hold so much (default: at once)',
      (text) => parseSize(text),
    )
    .addOption(
      new Option('--compress <codec>', 'compression of memory (default: lz4)').choices(codecs),
    )
    .option('--limit <rate>', 'store no more than that a second, such as 50M/s', parseRate)
    .option('--in-flight', 'disk requests in flight become part of the checkpoint')
    .option('--status', 'tell how VMs are protected, of all that are without names')
    .description('take checkpoints of VMs and send them to another store, until Ctrl-C')
    .addHelpText(
      'after',
      '\nWhile the destination is away checkpoints go on; when it is back the newest is sent first, then those that' +
        '\nit would have kept. Checkpoints are named protect-TIME, and no others are removed. After a commit the next' +
        '\ncheckpoint sends the whole disk: give --commit a size that is worth it.',
    );
  addSshOptions(command).action(withContext(run));
}

/** Guests go first: what protects them, ssh included, has time until the next interval. */
function giveWay(): void {
  const { PRIORITY_BELOW_NORMAL } = constants.priority;
  if (getPriority() < PRIORITY_BELOW_NORMAL) setPriority(PRIORITY_BELOW_NORMAL);
}

async function run(context: Context, options: Options, names: string[]): Promise<undefined> {
  const store = await context.openStore();
  if (options.status === true) return tellStatus(context, store, names);
  const { to } = options;
  if (to === undefined) {
    throw new CkptError('USAGE', 'nothing says where checkpoints go; give --to DEST');
  }
  giveWay();
  const { protect } = await import('../protect/protect.js');
  const { protectionStatus } = await import('../vmm/protection.js');
  await protect(store, names, protectOptionsOf(options, to), {
    signal: context.signal,
    onEvent: (event) => context.output.status(event, textOf(event, to)),
    onReady: () => notifyReady(context, `${names.join(', ')} to ${to}`),
  });
  for (const vm of new Set(names)) {
    const status = await protectionStatus(store, vm);
    if (!status) continue;
    context.output.result({ vm, ...status }, `${vm}: ${describeProtection(status)}`, vm);
  }
  return undefined;
}

function protectOptionsOf(options: Options, to: string): ProtectOptions {
  const { every, afterWritten, keep, commit, compress, limit, inFlight } = options;
  return {
    ...{ to, everyMs: every * 1000, afterWrittenBytes: afterWritten, keep },
    commitBytes: commit === true ? 0 : commit,
    request: {
      codec: compress,
      limitBytesPerSecond: limit,
      ...(inFlight === true ? { drain: 'in-flight' } : {}),
    },
    ...sshOptionsOf(options),
  };
}

async function tellStatus(context: Context, store: Store, names: string[]): Promise<undefined> {
  const { protectionStatus } = await import('../vmm/protection.js');
  const rows = [];
  for (const vm of names.length > 0 ? names : await store.listVms()) {
    await store.needVm(vm);
    const status = await protectionStatus(store, vm);
    if (status) rows.push({ vm, ...status });
    else if (names.length > 0) {
      throw new CkptError('NOT_FOUND', `VM ${vm} was never protected; see ckptfs protect --help`, {
        vm,
      });
    }
  }
  context.output.results(rows, protectionTable);
  return undefined;
}

/** What people are told; undefined of what only programs want to know. */
function textOf(event: ProtectEvent, to: string): string | undefined {
  const at = 'name' in event ? `${event.vm}@${event.name}` : event.vm;
  switch (event.event) {
    case 'taken':
      return `${at}: taken, pause ${formatUs(event.pauseUs)}`;
    case 'shipped':
      return (
        `${at}: ${formatSize(event.sentBytes)} of ${formatSize(event.totalBytes)} sent to ${to} in ` +
        `${formatMs(event.totalMs)}, RPO ${formatMs(event.rpoMs)}`
      );
    case 'missed': {
      const what = event.intervals === 1 ? 'an interval' : `${event.intervals} intervals`;
      return `ckptfs: ${at}: ${what} missed, ${event.missed} in all: ${event.why}`;
    }
    case 'failed':
      return `ckptfs: ${at}: ${event.step} failed: ${event.message}`;
    case 'works':
      return `${at}: ${event.step} works again`;
    case 'committed':
      return `${at}:${event.disk}: ${event.logs} redo logs committed`;
    case 'sending':
    case 'removed':
      return undefined;
  }
}
