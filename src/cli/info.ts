/** ckptfs info: all that is known of one VM. */
import type { Command } from 'commander';
import type { ArrivingStatus, ScheduleStatus, VmStatus } from '../types.js';
import { withContext } from './context.js';
import type { ProtectionStatus } from '../vmm/protection.js';
import { formatFields } from './output.js';
import { describeProtection } from './protection.js';
import { formatSize, formatUs } from './sizes.js';
import { summarizeVm, type VmSummary } from './vms.js';

/** Guest time advances in ticks of 100 ns. */
const ticksPerUs = 10;

export function registerInfo(program: Command): void {
  program
    .command('info')
    .argument('<vm>', 'name of the VM')
    .description('show a VM: its state, configuration and what it is doing')
    .action(
      withContext(async (context, _options: object, vm: string) => {
        const store = await context.openStore();
        await store.needVm(vm);
        const { protectionStatus } = await import('../vmm/protection.js');
        const summary = await summarizeVm(store, vm);
        const config = await store.readConfig(vm).catch(() => undefined);
        const { status, ...rest } = summary;
        const protection = await protectionStatus(store, vm);
        context.output.result(
          {
            ...{ ...rest, ...status },
            ...(protection === undefined ? {} : { protection }),
            ...(config === undefined ? {} : { config }),
          },
          describeVm(summary, protection),
          summary.state,
        );
        return undefined;
      }),
    );
}

function describeVm(
  { vm, state, memoryBytes, cpus, checkpoints, status }: VmSummary,
  protection: ProtectionStatus | undefined,
): string {
  return formatFields([
    ['VM', vm],
    ['state', state],
    ['memory', memoryBytes === undefined ? undefined : formatSize(memoryBytes)],
    ['cpus', cpus === undefined ? undefined : String(cpus)],
    ['checkpoints', String(checkpoints)],
    ['protection', protection && describeProtection(protection)],
    ...(status === undefined ? [] : describeStatus(status)),
  ]);
}

function describeStatus(status: VmStatus): [string, string | undefined][] {
  const { save, restore, exit, suspended, schedule, lastError, arriving } = status;
  return [
    ['pid', String(status.pid)],
    ['started', status.startedAt],
    ['guest time', formatUs(Number(status.guestTicks) / ticksPerUs)],
    ['instructions', status.instructions.toLocaleString('en')],
    ['faults', status.faults.toLocaleString('en')],
    ['written', `${formatSize(status.dirtyBytes)} since ${status.trackedId ?? 'the start'}`],
    ['mount', status.mount],
    ['suspended', suspended && `with checkpoint ${suspended.name}`],
    ['schedule', schedule && describeSchedule(schedule)],
    ['error', status.error],
    ['last failure', lastError && `checkpoint ${lastError.name}: ${lastError.message}`],
    ['ended', exit === undefined ? undefined : `${exit.kind}, reason ${exit.reason}`],
    ['saving', save && `${save.name}, ${save.blocksSaved} of ${save.blocksTotal} memory blocks`],
    [
      'restored',
      restore &&
        (restore.done
          ? `from ${restore.id} in ${formatUs(restore.completeUs)}`
          : describeLoading(restore)),
    ],
    ['arriving', arriving && describeArriving(arriving)],
  ];
}

function describeLoading({ id, blocks, error }: NonNullable<VmStatus['restore']>): string {
  const { demand, prefetched, zero, total } = blocks;
  const amount = `from ${id}, ${demand + prefetched + zero} of ${total} memory blocks so far`;
  return error === '' ? amount : `${amount}; ${error}`;
}

function describeArriving({ doneBytes, totalBytes, error }: ArrivingStatus): string {
  const amount = `${formatSize(doneBytes)} of ${formatSize(totalBytes)}`;
  return error === undefined ? amount : `${amount}; ${error}`;
}

function describeSchedule(schedule: ScheduleStatus): string {
  const { everySeconds, afterWrittenBytes, keep, taken, missed, nextAt } = schedule;
  return [
    ...(everySeconds === undefined ? [] : [`every ${everySeconds} s`]),
    ...(afterWrittenBytes === undefined ? [] : [`after ${formatSize(afterWrittenBytes)} written`]),
    ...(keep === undefined ? [] : [`${keep} kept`]),
    `${taken} taken, ${missed} missed`,
    ...(nextAt === undefined ? [] : [`next at ${nextAt}`]),
  ].join(', ');
}
