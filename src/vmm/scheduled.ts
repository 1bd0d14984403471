/** The schedule of a VM: what schedule.ts decides, done with its machine, its saves and its store. */
import { freeTimeName } from '../checkpoint/checkpoints.js';
import type { Store } from '../checkpoint/store.js';
import type { NativeMachine } from '../native.js';
import type { CheckpointEvent, VmConfig } from '../types.js';
import type { DiskWork } from './disk_work.js';
import { keepNewest } from './keep_newest.js';
import type { Saves } from './saves.js';
import { Schedule } from './schedule.js';
import type { Upkeep } from './upkeep.js';

/** What the names of scheduled checkpoints begin with; only these are ever removed by the schedule. */
const prefix = 'auto-';

export interface ScheduledContext {
  store: Store;
  config: VmConfig;
  machine: Pick<NativeMachine, 'status'>;
  saves: Saves;
  disks: Pick<DiskWork, 'underWay'>;
  upkeep: Pick<Upkeep, 'look'>;
  tell: (event: CheckpointEvent) => void;
}

export function scheduleOf(context: ScheduledContext): Schedule {
  const { store, config, machine, saves, disks, upkeep, tell } = context;
  return new Schedule(config.schedule ?? {}, {
    obstacle() {
      if (saves.current) return 'a checkpoint is being saved';
      const why = saves.obstacle();
      if (why !== undefined) return why;
      if (disks.underWay !== undefined) return disks.underWay;
      const { state } = machine.status();
      return state === 'running' ? undefined : `the VM is ${state}`;
    },
    dirtyBytes: () => machine.status().dirtyBytes,
    async take() {
      const name = await freeTimeName(store, config.name, new Date(), prefix);
      return (await saves.take({ name })).name;
    },
    async prune(keep) {
      await keepNewest(store, config.name, prefix, keep);
      upkeep.look();
    },
    onMissed: (why) => tell({ type: 'missed', why }),
    onFailed: (error) => saves.failed('', error),
  });
}
