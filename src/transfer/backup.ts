/**
 * Backup of a VM to a target (requirements D1, D2, D5, D6): a checkpoint of it, taken for that if it runs, and what
 * the target lacks of it.
 */
import {
  type CheckpointEntry,
  findCheckpoint,
  listCheckpoints,
} from '../checkpoint/checkpoints.js';
import type { Store } from '../checkpoint/store.js';
import { CkptError } from '../errors.js';
import type { CheckpointRequest, CheckpointSummary, CommitSummary } from '../types.js';
import { askStatus, VmClient } from '../vmm/client.js';
import { storedConfig } from '../vmm/config.js';
import { commitDisk } from '../vmm/disk_commit.js';
import { withDisk } from '../vmm/disk_place.js';
import { pack, type Parcel } from './parcel.js';
import type { Sent, Target, TransferHooks } from './target.js';

/**
 * What becomes of the redo logs of non-persistent disks (requirement D5):
 *
 *   with-redo     the parent and its logs are copied; the target keeps the parent, so that later backups send logs alone
 *   commit-first  the logs are committed before, and the parent is copied as it is then
 *   then-commit   the logs are committed after they have been copied
 *   redo-only     logs alone: refused where the target does not have the parent from an earlier backup
 */
export const diskModes = ['with-redo', 'commit-first', 'then-commit', 'redo-only'] as const;
export type DiskMode = (typeof diskModes)[number];

export interface BackupOptions {
  /** How the checkpoint of a VM that runs is taken; with `suspend` the VM waits until it has been sent. */
  request?: CheckpointRequest;
  /** An existing checkpoint of the VM, by name, in the place of a new one. */
  checkpoint?: string;
  disks?: DiskMode;
  /** As for a commit: copies a parent that others refer to. */
  copy?: boolean;
}

export interface BackupHooks extends TransferHooks {
  /** A checkpoint is about to be sent. */
  onSending?: (checkpoint: { vm: string; name: string; id: string }) => void;
}

export interface BackupSummary extends Sent {
  vm: string;
  name: string;
  id: string;
  /** Of a checkpoint that was taken for this. */
  pauseUs?: number;
}

/** A checkpoint to be sent, and what is to be done when it has been, or not. */
interface Taken {
  entries: Pick<CheckpointEntry, 'directory'>[];
  summary?: CheckpointSummary;
  release: () => Promise<void>;
}

/**
 * Backs one VM up: of one that runs a new checkpoint, of a stopped one all that it has, oldest first. Resolves with
 * what was sent. BUSY, NOT_FOUND, what a checkpoint fails with, and what the target refuses.
 */
export async function backupVm(
  store: Store,
  vm: string,
  target: Target,
  options: BackupOptions = {},
  hooks: BackupHooks = {},
): Promise<BackupSummary[]> {
  await store.needVm(vm);
  const { disks = 'with-redo' } = options;
  const taken = await take(store, vm, options, hooks);
  const summaries: BackupSummary[] = [];
  try {
    for (const { directory } of taken.entries) {
      const parcel = await pack(directory);
      const { name, id } = parcel.manifest;
      hooks.onSending?.({ vm, name, id });
      const sent = await target.send(parcel, hooks, refusalOf(disks));
      const pauseUs = taken.summary?.pauseUs;
      summaries.push({ vm, name, id, ...sent, ...(pauseUs === undefined ? {} : { pauseUs }) });
    }
  } finally {
    await taken.release();
  }
  if (disks === 'then-commit') await commitAll(store, vm, options, hooks);
  return summaries;
}

async function take(
  store: Store,
  vm: string,
  options: BackupOptions,
  hooks: BackupHooks,
): Promise<Taken> {
  const release = (): Promise<void> => Promise.resolve();
  if (options.checkpoint !== undefined) {
    return { entries: [await findCheckpoint(store, `${vm}@${options.checkpoint}`)], release };
  }
  const status = await askStatus(store, vm);
  if (status === 'silent') {
    throw new CkptError('BUSY', `the process of VM ${vm} does not answer; see ckptfs info ${vm}`);
  }
  if (status === undefined) return { entries: await existing(store, vm, options), release };
  if (options.disks === 'commit-first') await commitAll(store, vm, options, hooks);
  const client = await VmClient.connect(vm, store.controlSocket(vm));
  const suspend = options.request?.suspend === true;
  const summary = await client.checkpoint(
    { ...options.request, wait: true },
    undefined,
    hooks.signal,
  );
  const resume = async (): Promise<void> => {
    if (suspend) await client.resume();
  };
  try {
    const entry = await findCheckpoint(store, `${vm}@${summary.name}`);
    return { entries: [entry], summary, release: resume };
  } catch (error) {
    await resume();
    throw error;
  }
}

/** The checkpoints of a VM that does not run. */
async function existing(
  store: Store,
  vm: string,
  { disks }: BackupOptions,
): Promise<CheckpointEntry[]> {
  if (disks === 'commit-first') {
    throw new CkptError(
      'USAGE',
      `VM ${vm} does not run, and its checkpoints stay as they are; leave --disks commit-first out`,
      { vm },
    );
  }
  const entries = await listCheckpoints(store, vm);
  if (entries.length > 0) return entries;
  throw new CkptError(
    'NOT_FOUND',
    `VM ${vm} does not run and has no checkpoint: there is nothing to back up; start it (ckptfs run --name ${vm})`,
    { vm },
  );
}

/** Commits the redo logs of all disks, whether the VM runs or not. Errors are those of a commit. */
export async function commitAll(
  store: Store,
  vm: string,
  { copy = false }: Pick<BackupOptions, 'copy'>,
  { signal }: Pick<BackupHooks, 'signal'>,
): Promise<CommitSummary[]> {
  const { disks } = await storedConfig(store, vm);
  const hooks = { signal };
  const summaries: CommitSummary[] = [];
  for (const { id } of disks.filter(({ readonly }) => !readonly)) {
    summaries.push(
      await withDisk(
        store,
        vm,
        id,
        (client) => client.commitDisk(id, { copy }, hooks),
        (place) => commitDisk(place, { copy }, hooks),
      ),
    );
  }
  return summaries;
}

/** Looks at what the target wants, before any of it is sent. */
function refusalOf(
  disks: DiskMode,
): (parcel: Parcel, wanted: readonly { index: number }[]) => void {
  return (parcel, wanted) => {
    if (disks !== 'redo-only') return;
    const parents = new Map(parcel.manifest.disks.map(({ id, parent }) => [parent, id]));
    for (const { index } of wanted) {
      const disk = parents.get(parcel.files[index]?.file.path ?? '');
      if (disk === undefined) continue;
      throw new CkptError(
        'NOT_FOUND',
        `the target does not have the parent of disk ${disk} yet; make one backup with --disks with-redo first`,
        { disk },
      );
    }
  };
}
