/** ckptfs disk check, commit, compact and discard: whether a disk is whole, and what becomes of its redo logs. */
import { CkptError, exitCodes } from '../errors.js';
import type { TaskHooks } from '../native.js';
import type { CommitOptions, CompactDiskOptions } from '../types.js';
import type { VmClient } from '../vmm/client.js';
import type { DiskPlace } from '../vmm/disk_place.js';
import type { FoundDisk } from '../vmm/disk_reference.js';
import type { Context } from './context.js';
import { Progress } from './progress.js';
import { formatSize } from './sizes.js';

/** The disk that a person refers to. */
export async function findDisk(context: Context, reference: string): Promise<FoundDisk> {
  const { findDisk: find } = await import('../vmm/disk_reference.js');
  return find(reference, () => context.openStore());
}

export async function checkDisk(
  context: Context,
  options: { repair?: boolean },
  reference: string,
): Promise<number> {
  const check = await import('../vmm/disk_check.js');
  const found = await findDisk(context, reference);
  if (options.repair === true) {
    const repaired = await whileStopped(context, found, ({ store, vm, disk }) =>
      check.repairDisk(store, vm, disk),
    );
    const lines = repaired.map(
      ({ file, keptBytes, lostBytes }) =>
        `  ${file}: kept ${formatSize(keptBytes)}, lost ${formatSize(lostBytes)}`,
    );
    const text = [`${found.name}: ${lines.length || 'no'} logs repaired`, ...lines].join('\n');
    context.output.result({ disk: found.name, repaired }, text);
  }
  const damage = await check.checkDisk(found.layers);
  const whole = damage.length === 0;
  const lines = damage.map(({ file, what }) => `  ${file}: ${what}`);
  const text = whole ? `${found.name}: whole` : [`${found.name}: DAMAGED`, ...lines].join('\n');
  context.output.result(
    { disk: found.name, ok: whole, damage },
    text,
    whole ? undefined : `${found.name}: damaged`,
  );
  return whole ? exitCodes.done : exitCodes.damaged;
}

/** The disk of a VM, as it is now. USAGE for any other disk. */
function ofVm({ name, vm, disk }: FoundDisk): { vm: string; disk: string } {
  if (vm !== undefined && disk !== undefined) return { vm, disk: disk.id };
  const what = `${name} is not the disk of a VM as it is now; a checkpoint never changes, and a raw file has no logs`;
  throw new CkptError('USAGE', `${what}; give VM or VM:DISK`, { disk: name });
}

/** Works on the disk of a VM that no process runs. BUSY. */
async function whileStopped<T>(
  context: Context,
  found: FoundDisk,
  work: (place: DiskPlace) => Promise<T>,
): Promise<T> {
  const { vm, disk } = ofVm(found);
  const { withStoppedDisk } = await import('../vmm/disk_place.js');
  return withStoppedDisk(await context.openStore(), vm, disk, work);
}

/** Has long work done on the disk of a VM, by its process if it runs, and shows how far it is. */
async function withProgress<T>(
  context: Context,
  found: FoundDisk,
  action: string,
  running: (client: VmClient, disk: string, hooks: TaskHooks) => Promise<T>,
  stopped: (place: DiskPlace, hooks: TaskHooks) => Promise<T>,
): Promise<T> {
  const { vm, disk } = ofVm(found);
  const { withDisk } = await import('../vmm/disk_place.js');
  const store = await context.openStore();
  using progress = await Progress.begin(context.output, `${action} ${found.name}`, 'bytes');
  const hooks = {
    onProgress: (done: number, total: number) => progress.update(done, total),
    signal: context.signal,
  };
  return await withDisk(
    store,
    vm,
    disk,
    (client) => running(client, disk, hooks),
    (place) => stopped(place, hooks),
  );
}

export async function commitDisk(
  context: Context,
  options: CommitOptions,
  reference: string,
): Promise<undefined> {
  const offline = await import('../vmm/disk_commit.js');
  const found = await findDisk(context, reference);
  const summary = await withProgress(
    context,
    found,
    'committing',
    (client, disk, hooks) => client.commitDisk(disk, options, hooks),
    (place, hooks) => offline.commitDisk(place, options, hooks),
  );
  const { logs, parent, copied } = summary;
  const into = copied ? `${parent}, a copy of its parent` : parent;
  const text =
    logs === 0
      ? 'it has no redo logs'
      : `committed ${logs} redo log${logs > 1 ? 's' : ''} to ${into}`;
  context.output.result({ ...summary }, `${found.name}: ${text}`, parent);
  return undefined;
}

export async function compactDisk(
  context: Context,
  options: CompactDiskOptions,
  reference: string,
): Promise<undefined> {
  const offline = await import('../vmm/disk_compact.js');
  const found = await findDisk(context, reference);
  const summary = await withProgress(
    context,
    found,
    'compacting',
    (client, disk, hooks) => client.compactDisk(disk, options, hooks),
    (place, hooks) => offline.compactDisk(place, options, hooks),
  );
  const { replaced, logsBefore, logsAfter, bytesBefore, bytesAfter } = summary;
  const before = `${logsBefore} redo log${logsBefore === 1 ? '' : 's'} (${formatSize(bytesBefore)})`;
  const text =
    replaced === 0
      ? `nothing to gain in ${before}`
      : `${before} are now ${logsAfter} (${formatSize(bytesAfter)})`;
  context.output.result({ ...summary }, `${found.name}: ${text}`);
  return undefined;
}

export async function discardDisk(
  context: Context,
  _options: object,
  reference: string,
): Promise<undefined> {
  const offline = await import('../vmm/disk_commit.js');
  const found = await findDisk(context, reference);
  const logs = await whileStopped(context, found, (place) => offline.discardDisk(place));
  context.output.result({ disk: found.name, logs }, `${found.name}: ${logs} redo logs discarded`);
  return undefined;
}
