/** What a VM's process tells Prometheus: of the VM, of its checkpoints, and of its protection (src/protect). */
import type { CheckpointEvent, VmStatus } from '../types.js';
import { expose, type Metric } from './exposition.js';
import { protectionSteps, type ProtectionStatus } from './protection.js';

const states = ['starting', 'running', 'paused', 'failed', 'ended'] as const;

/** What has become of the checkpoints of a VM since its process started. */
export class CheckpointTally {
  published = 0;
  failed = 0;
  missed = 0;
  pauseUs = 0;
  storedBytes = 0;
  last: { at: Date; pauseUs: number } | undefined;

  note(event: CheckpointEvent): void {
    if (event.type === 'failed') this.failed++;
    if (event.type === 'missed') this.missed++;
    if (event.type !== 'published') return;
    const { pauseUs, storedBytes = 0 } = event.checkpoint;
    this.published++;
    this.pauseUs += pauseUs;
    this.storedBytes += storedBytes;
    this.last = { at: new Date(), pauseUs };
  }
}

export interface Measured {
  status: VmStatus;
  tally: Readonly<CheckpointTally>;
  /** How many checkpoints of the VM the store has. */
  checkpoints: number;
  protection?: ProtectionStatus | undefined;
}

/** The metrics of a VM in the text format of Prometheus; times in seconds since 1970, as of the call. */
export function metricsText({ status, tally, checkpoints, protection }: Measured): string {
  return expose(
    [
      ...ofVm(status),
      ...ofCheckpoints(tally, checkpoints),
      ...(protection ? ofProtection(protection) : []),
    ],
    { vm: status.vm },
  );
}

function ofVm(status: VmStatus): Metric[] {
  return [
    {
      ...gauge('ckptfs_vm_state', 'Whether the VM is in this state'),
      samples: states.map((state) => ({
        labels: { state },
        value: Number(status.state === state),
      })),
    },
    gauge('ckptfs_vm_start_time_seconds', 'When its process started', seconds(status.startedAt)),
    gauge('ckptfs_vm_memory_bytes', 'Memory of the guest', status.memoryBytes),
    gauge('ckptfs_vm_cpus', 'Virtual CPUs', status.cpus),
    gauge('ckptfs_vm_written_bytes', 'Memory written since the last checkpoint', status.dirtyBytes),
    counter('ckptfs_vm_instructions_total', 'Instructions run', status.instructions),
    counter('ckptfs_vm_faults_total', 'Faults of checkpoints and restores', status.faults),
  ];
}

function ofCheckpoints(tally: Readonly<CheckpointTally>, checkpoints: number): Metric[] {
  const { published, failed, missed, pauseUs, storedBytes, last } = tally;
  return [
    gauge('ckptfs_checkpoints', 'Checkpoints of the VM in the store', checkpoints),
    counter('ckptfs_checkpoints_published_total', 'Checkpoints taken and published', published),
    counter('ckptfs_checkpoints_failed_total', 'Checkpoints that failed untold', failed),
    counter('ckptfs_checkpoints_missed_total', 'Checkpoints of its schedule missed', missed),
    counter('ckptfs_checkpoint_pause_seconds_total', 'Time paused for them', pauseUs / 1e6),
    counter('ckptfs_checkpoint_stored_bytes_total', 'Memory stored by them', storedBytes),
    gauge(
      'ckptfs_checkpoint_last_pause_seconds',
      'Pause of the last one',
      last && last.pauseUs / 1e6,
    ),
    gauge(
      'ckptfs_checkpoint_last_time_seconds',
      'When the last one was published',
      last && last.at.getTime() / 1000,
    ),
  ];
}

function ofProtection(protection: ProtectionStatus): Metric[] {
  const { rpoMs, worstRpoMs, newest, failures } = protection;
  const count = (name: string, help: string, value: number): Metric =>
    counter(`ckptfs_protect_${name}_total`, help, value);
  return [
    gauge('ckptfs_protect_active', 'Whether a process protects the VM', Number(protection.active)),
    {
      ...gauge('ckptfs_protect_failing', 'Whether this step of it fails'),
      samples: protectionSteps.map((step) => ({
        labels: { step },
        value: Number(failures[step] !== undefined),
      })),
    },
    gauge('ckptfs_protect_interval_seconds', 'Interval of protection', protection.everyMs / 1000),
    gauge(
      'ckptfs_protect_rpo_seconds',
      'Age of the newest checkpoint that the destination holds',
      rpoMs === undefined ? undefined : rpoMs / 1000,
    ),
    gauge(
      'ckptfs_protect_rpo_worst_seconds',
      'The most that age has been since protection began',
      newest && worstRpoMs / 1000,
    ),
    gauge(
      'ckptfs_protect_newest_time_seconds',
      'When that checkpoint was taken',
      newest && seconds(newest.createdAt),
    ),
    count('taken', 'Checkpoints taken to protect the VM', protection.taken),
    count('shipped', 'Checkpoints sent to the destination', protection.shipped),
    count('shipped_bytes', 'Bytes sent to the destination', protection.shippedBytes),
    count('missed', 'Intervals missed', protection.missed),
    count('committed', 'Commits of redo logs after they were sent', protection.committed),
  ];
}

const seconds = (time: string): number => Date.parse(time) / 1000;

function gauge(name: string, help: string, value?: number): Metric {
  return { name, help, type: 'gauge', samples: value === undefined ? [] : [{ value }] };
}

function counter(name: string, help: string, value: number): Metric {
  return { name, help, type: 'counter', samples: [{ value }] };
}
