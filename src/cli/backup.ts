/** ckptfs backup: checkpoints of VMs to another store, in a directory or at the far end of ssh. */
import { type Command, Option } from 'commander';
import type { Store } from '../checkpoint/store.js';
import { CkptError, exitCodes, toCkptError } from '../errors.js';
import { type Codec, codecs } from '../native.js';
import type { BackupOptions, BackupSummary, DiskMode } from '../transfer/backup.js';
import type { CheckpointRequest } from '../types.js';
import type { VmClient } from '../vmm/client.js';
import { type Context, withContext } from './context.js';
import { Progress } from './progress.js';
import { formatSize, formatUs, parseRate } from './sizes.js';
import { addSshOptions, destinationHelp, type SshOptions, sshOptionsOf } from './ssh_options.js';

interface Options extends SshOptions {
  to: string;
  all?: boolean;
  together?: boolean;
  live?: boolean;
  suspend?: boolean;
  checkpoint?: string;
  name?: string;
  disks?: DiskMode;
  copy?: boolean;
  full?: boolean;
  compress?: Codec;
  limit?: number;
}

const diskModes = ['with-redo', 'commit-first', 'then-commit', 'redo-only'] satisfies DiskMode[];

export function registerBackup(program: Command): void {
  const command = program
    .command('backup')
    .argument('[vms...]', 'names of VMs')
    .requiredOption('--to <dest>', destinationHelp)
    .option('--all', 'every VM of the store that runs or has checkpoints')
    .option('--together', 'the checkpoints of all these VMs are of one instant')
    .option('--live', 'a VM runs while its checkpoint is taken and sent (the default)')
    .option('--suspend', 'a VM waits until its checkpoint has been sent')
    .option('--checkpoint <name>', 'send this checkpoint of the VM, and take none')
    .option('--name <name>', 'name of the checkpoint that is taken (default: its time)')
    .option('--full', 'store all of memory, whatever an earlier checkpoint has of it')
    .addOption(
      new Option('--compress <codec>', 'compression of memory (default: lz4)').choices(codecs),
    )
    .option('--limit <rate>', 'store no more than that a second, such as 50M/s', parseRate)
    .addOption(
      new Option('--disks <mode>', 'what becomes of redo logs (default: with-redo)').choices(
        diskModes,
      ),
    )
    .option('--copy', 'a commit may copy a parent that others refer to')
    .description('copy checkpoints of VMs to another store; Ctrl-C cancels, and it goes on later')
    .addHelpText(
      'after',
      '\nOf a VM that runs a checkpoint is taken and sent; of a stopped one all that it has are. What the' +
        '\ndestination has already is not sent again, and what was cut short goes on where it stopped.' +
        '\nDisks: with-redo sends the parent once and then redo logs; commit-first commits them before; then-commit' +
        '\nafter it; redo-only refuses to send a parent.',
    );
  addSshOptions(command).action(withContext(backup));
}

async function backup(context: Context, options: Options, names: string[]): Promise<number> {
  refuse(options, names);
  const store = await context.openStore();
  const vms = options.all === true ? await store.listVms() : names;
  for (const vm of vms) await store.needVm(vm);
  const group =
    options.together === true ? await takeGroup(context, store, vms, options) : undefined;
  let failed = 0;
  try {
    for (const vm of vms) {
      try {
        await backupOne(context, store, vm, group?.sendingOf(vm) ?? options);
      } catch (error) {
        const { code } = toCkptError(error);
        if (vms.length === 1 || code === 'CANCELLED') throw error;
        // With --all a VM that has nothing to send is not a failure.
        if (options.all === true && code === 'NOT_FOUND' && (await hasNothing(store, vm))) continue;
        failed++;
        context.output.error(error);
      }
    }
  } finally {
    await group?.release();
  }
  if (vms.length === 0) context.output.note('no VMs to back up');
  if (failed === 0) return exitCodes.done;
  return failed < vms.length ? exitCodes.partly : exitCodes.failed;
}

function refuse(options: Options, names: string[]): void {
  const exclusive = (what: boolean, message: string): void => {
    if (what) throw new CkptError('USAGE', message);
  };
  const { all, checkpoint, name, suspend, live } = options;
  exclusive((all === true) === names.length > 0, 'backup needs VMs; name them, or give --all');
  exclusive(
    live === true && suspend === true,
    '--live and --suspend exclude each other; give one of them',
  );
  exclusive(
    options.together === true && (checkpoint ?? options.disks) !== undefined,
    '--together takes checkpoints of VMs that run; leave --checkpoint and --disks out',
  );
  const isOne = names.length === 1;
  exclusive(
    (checkpoint !== undefined || name !== undefined) && !isOne,
    '--checkpoint and --name are for one VM; name one',
  );
  exclusive(
    checkpoint !== undefined && (name ?? suspend ?? options.full) !== undefined,
    'with --checkpoint none is taken; leave --name, --suspend and --full out',
  );
}

/** Checkpoints of all VMs, which run, at one instant: what is to be sent of each. */
async function takeGroup(context: Context, store: Store, vms: string[], options: Options) {
  const { checkpointTogether } = await import('../vmm/together.js');
  const clients: VmClient[] = [];
  for (const vm of vms) clients.push(await context.connect(store, vm));
  const { request = {} } = backupOptionsOf(options);
  const { checkpoints } = await checkpointTogether(clients, request, { signal: context.signal });
  const names = new Map(checkpoints.map(({ vm, name }) => [vm, name]));
  return {
    sendingOf: (vm: string): Options => ({
      to: options.to,
      ...sshOptionsOf(options),
      checkpoint: names.get(vm) ?? '',
    }),
    /** All have been sent, or not: those that were suspended go on. */
    release: async (): Promise<void> => {
      if (request.suspend !== true) return;
      for (const client of clients) await client.resume();
    },
  };
}

async function hasNothing(store: Store, vm: string): Promise<boolean> {
  const { listCheckpointNames } = await import('../checkpoint/checkpoints.js');
  return (await listCheckpointNames(store, vm)).length === 0;
}

async function backupOne(
  context: Context,
  store: Store,
  vm: string,
  options: Options,
): Promise<void> {
  const { openTarget } = await import('../transfer/open.js');
  const { signal } = context;
  // The far end starts while the rest of this command is loaded.
  const opening = openTarget(options.to, { create: true, signal, ...sshOptionsOf(options) });
  opening.catch(() => undefined); // met below
  const { backupVm } = await import('../transfer/backup.js');
  const { DirectoryTarget } = await import('../transfer/directory_target.js');
  await using target = await opening;
  if (target instanceof DirectoryTarget) await target.refuseSame(store);
  const summaries = await (async () => {
    using progress = await Progress.begin(context.output, `sending ${vm}`, 'bytes');
    return await backupVm(store, vm, target, backupOptionsOf(options), {
      signal,
      onProgress: (done, total) => progress.update(done, total),
      onSending: (checkpoint) => context.output.status({ ...checkpoint, event: 'sending' }),
    });
  })();
  for (const summary of summaries) tell(context, options.to, summary);
}

function backupOptionsOf(options: Options): BackupOptions {
  const { suspend, name, full, compress, limit, checkpoint, disks, copy } = options;
  const request: CheckpointRequest = {
    ...{ name, suspend, full },
    codec: compress,
    limitBytesPerSecond: limit,
  };
  return {
    request,
    ...(checkpoint === undefined ? {} : { checkpoint }),
    ...(disks === undefined ? {} : { disks }),
    ...(copy === undefined ? {} : { copy }),
  };
}

function tell(context: Context, to: string, summary: BackupSummary): void {
  const { vm, name, state, totalBytes, sentBytes, presentBytes, totalMs, pauseUs } = summary;
  const text =
    state === 'present'
      ? `${vm}@${name}: ${to} has it already`
      : [
          `${vm}@${name}: ${formatSize(sentBytes)} of ${formatSize(totalBytes)} sent to ${to}`,
          ...(presentBytes > 0 ? [`${formatSize(presentBytes)} were there`] : []),
          formatUs(totalMs * 1000),
          ...(pauseUs === undefined ? [] : [`pause ${formatUs(pauseUs)}`]),
        ].join(', ');
  context.output.result({ ...summary, to }, text, `${vm}@${name}`);
}
