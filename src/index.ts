/**
 * The library: the verbs of the command line as typed functions.
 *
 *     const store = await Store.open('/srv/ckptfs', { create: true });
 *     const vm = await Vm.create(store, { kernel: 'Image', memoryBytes: 2 ** 29 });
 *     await vm.start();
 *     await vm.checkpoint({ name: 'before', codec: 'lz4', wait: true });
 */
export {
  type Checkpoint,
  type CheckpointEntry,
  findCheckpoint,
  listCheckpoints,
  openCheckpoint,
  removeCheckpoint,
} from './checkpoint/checkpoints.js';
export { type CheckpointDiff, diffCheckpoints } from './checkpoint/diff.js';
export { exportFile } from './checkpoint/export.js';
export type { Manifest } from './checkpoint/manifest.js';
export { judge, type RetentionRules, type Verdict } from './checkpoint/retention.js';
export { Store } from './checkpoint/store.js';
export { verifyCheckpoint } from './checkpoint/verify.js';
export { verifyCheckpoints } from './checkpoint/verify_all.js';
export { CkptError, type ErrorCode } from './errors.js';
export { mount, type Mount } from './fs/mount.js';
export { storeView } from './fs/store_view.js';
export type {
  ByteSource,
  Codec,
  Damage,
  DrainMode,
  Geometry,
  GuestExit,
  TraceName,
} from './native.js';
export type {
  CheckpointEvent,
  CheckpointRequest,
  CheckpointSummary,
  DiskConfig,
  ScheduleConfig,
  VmConfig,
  VmStatus,
} from './types.js';
export { VmClient } from './vmm/client.js';
export { Vm } from './vmm/vm.js';
