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
export { flattenDisk } from './checkpoint/disk_copy.js';
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
export type { ProtectEvent } from './protect/events.js';
export { protect, type ProtectHooks, type ProtectOptions } from './protect/protect.js';
export {
  backupVm,
  type BackupOptions,
  type BackupSummary,
  type DiskMode,
} from './transfer/backup.js';
export {
  type ClonedTo,
  cloneTo,
  type CloneToHooks,
  type CloneToOptions,
} from './transfer/clone_to.js';
export { openTarget } from './transfer/open.js';
export { type Proof, type ProofOptions, prove } from './transfer/prove.js';
export { bring } from './transfer/recover.js';
export { serve } from './transfer/serve.js';
export type { Sent, Target, TargetInfo, TransferHooks } from './transfer/target.js';
export type {
  CheckpointEvent,
  CheckpointGroup,
  CheckpointRequest,
  CheckpointSummary,
  CommitOptions,
  CommitSummary,
  CompactDiskOptions,
  CompactDiskSummary,
  DiskConfig,
  ScheduleConfig,
  VmConfig,
  VmStatus,
} from './types.js';
export { protectionStatus, type ProtectionStatus } from './vmm/protection.js';
export { VmClient } from './vmm/client.js';
export { type Cloned, type CloneOptions, cloneVm } from './vmm/clone.js';
export { commitDisk, discardDisk } from './vmm/disk_commit.js';
export { compactDisk } from './vmm/disk_compact.js';
export { type DiskPlace, withDisk, withStoppedDisk } from './vmm/disk_place.js';
export {
  precopy,
  type Precopied,
  type PrecopyHooks,
  type PrecopyPolicy,
  type PrecopyRound,
  type PrecopySource,
  type PrecopyTarget,
} from './vmm/precopy.js';
export {
  checkpointTogether,
  type GroupHooks,
  type GroupRequest,
  type GroupSummary,
} from './vmm/together.js';
export { Vm } from './vmm/vm.js';
