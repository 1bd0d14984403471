/** ckptfs rm: removes a checkpoint, or a stopped VM with its disks. */
import type { Command } from 'commander';
import type { Store } from '../checkpoint/store.js';
import { CkptError } from '../errors.js';
import { withContext } from './context.js';
import { lockVm } from './vms.js';

export function registerRm(program: Command): void {
  program
    .command('rm')
    .argument('<what>', 'a checkpoint, or the name of a stopped VM')
    .option('--force', 'remove a VM together with its checkpoints')
    .description('remove a checkpoint, or a stopped VM and the redo logs of its disks')
    .action(
      withContext(async (context, options: { force?: boolean }, what: string) => {
        const store = await context.openStore();
        const { isName } = await import('../checkpoint/names.js');
        // A VM's name goes before an id that reads the same.
        if (isName(what) && (await store.hasVm(what))) {
          await removeVm(store, what, options.force === true);
          context.output.result({ vm: what }, `removed VM ${what}`);
        } else {
          const removed = await removeOne(store, what);
          context.output.result(removed, `removed ${removed.vm}@${removed.name}`);
        }
        return undefined;
      }),
    );
}

async function removeVm(store: Store, vm: string, force: boolean): Promise<void> {
  const { listCheckpointNames } = await import('../checkpoint/checkpoints.js');
  const lock = await lockVm(store, vm);
  try {
    refuseWithCheckpoints(vm, force ? [] : await listCheckpointNames(store, vm));
    await store.removeVm(vm);
  } finally {
    lock.unlock();
  }
}

function refuseWithCheckpoints(vm: string, names: string[]): void {
  if (names.length === 0) return;
  throw new CkptError(
    'BUSY',
    `VM ${vm} has ${names.length} checkpoints; remove them first, or give --force`,
    { vm, checkpoints: names },
  );
}

async function removeOne(
  store: Store,
  reference: string,
): Promise<{ vm: string; name: string; id?: string }> {
  const { findCheckpoint } = await import('../checkpoint/checkpoints.js');
  const { checkpointsBeingLoaded, removeUnlessLoaded } = await import('../vmm/loading.js');
  const { parseReference } = await import('../checkpoint/names.js');
  if (!reference.includes('@') && !/^[0-9a-f]{4,32}$/i.test(reference))
    await store.needVm(reference);
  parseReference(reference);
  const entry = await findCheckpoint(store, reference);
  const id = entry.manifest?.id;
  await removeUnlessLoaded(store, entry, await checkpointsBeingLoaded(store));
  return { vm: entry.vm, name: entry.name, ...(id === undefined ? {} : { id }) };
}
