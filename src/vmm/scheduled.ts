/** The schedule of a VM: what schedule.ts decides, done with its machine, its saves and its store. */
import { freeTimeName, listCheckpoints } from '../checkpoint/checkpoints.js';
import { judge } from '../checkpoint/retention.js';
import type { Store } from '../checkpoint/store.js';
import type { NativeMachine } from '../native.js';
import type { CheckpointEvent, VmConfig } from '../types.js';
import { checkpointsBeingLoaded, removeUnlessLoaded } from './loading.js';
import type { Saves } from './saves.js';
import { Schedule } from './schedule.js';
import type { Upkeep } from './upkeep.js';

/** What the names of scheduled checkpoints begin with; only these are ever removed by the schedule. */
const prefix = 'auto-';

export function scheduleOf(
  store: Store,
  config: VmConfig,
  machine: Pick<NativeMachine, 'status'>,
  saves: Saves,
  upkeep: Pick<Upkeep, 'look'>,
  tell: (event: CheckpointEvent) => void,
): Schedule {
  return new Schedule(config.schedule ?? {}, {
    obstacle() {
      if (saves.current) return 'a checkpoint is being saved';
      const { state } = machine.status();
      return state === 'running' ? undefined : `the VM is ${state}`;
    },
    dirtyBytes: () => machine.status().dirtyBytes,
    async take() {
      const name = await freeTimeName(store, config.name, new Date(), prefix);
      return (await saves.take({ name })).name;
    },
    async prune(keep) {
      await prune(store, config.name, keep);
      upkeep.look();
    },
    onMissed: (why) => tell({ type: 'missed', why }),
    onFailed: (error) => saves.failed('', error),
  });
}

async function prune(store: Store, vm: string, keep: number): Promise<void> {
  const entries = await listCheckpoints(store, vm);
  const scheduled = entries.filter((entry) => entry.name.startsWith(prefix));
  const old = judge(scheduled, { keepLast: keep }).filter(({ reasons }) => reasons.length === 0);
  if (old.length === 0) return;
  const loaded = await checkpointsBeingLoaded(store);
  for (const { entry } of old) await removeUnlessLoaded(store, entry, loaded);
}
