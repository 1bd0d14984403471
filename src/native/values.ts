/**
 * The values that cross the native boundary, as TypeScript sees them; native/machine/machine_config.h and
 * native/binding have the same shapes. No code but lists of names.
 */

/** Sizes of pages, memory blocks and IO blocks (requirement B10). */
export interface Geometry {
  pageBytes: number;
  pagesPerBlock: number;
  blocksPerIoBlock: number;
}

/** Random access to bytes that a node of the mount or a command reads. Reads past the end are short. */
export interface ByteSource {
  /** Total size in bytes. */
  readonly bytes: number;
  /** Fills `into` from `position`; resolves with the bytes read. Rejects DAMAGED when a checksum fails. */
  read(into: Uint8Array, position: number): Promise<number>;
  close(): void;
  /** What the addon can read, and write, by itself, on any thread: its own source, or all of the bytes. */
  readonly native?: NativeBytes | undefined;
}

/** A source of the addon's own, as the addon knows it. */
export interface NativeSource {
  /** When it was last written to, in ms since 1970; 0 if it was not. */
  readonly writtenMs: number;
  /** How much of it is not in holes. */
  dataBytes(): Promise<number>;
  /** From now on it is read, by whoever has it open, as the other one. */
  become(other: NativeSource): void;
}

export type NativeBytes = NativeSource | Uint8Array;

/** Bytes that can be written too, within their size. */
export interface WritableSource extends ByteSource {
  /** Resolves when a read gives what was written. */
  write(from: Uint8Array, position: number): Promise<void>;
  /** Resolves when everything written before is durable. */
  flush(): Promise<void>;
}

export const codecs = ['none', 'lz4', 'zstd'] as const;
export type Codec = (typeof codecs)[number];

/** How accesses to guest memory are made to trap; the default comes first (docs/design.md). */
export const traceNames = ['soft', 'mprotect', 'userfaultfd'] as const;
export type TraceName = (typeof traceNames)[number];

/** What becomes of disk requests in flight at a checkpoint (requirement A14): completed before the pause,
 *  or part of the checkpoint. */
export const drainModes = ['drain', 'in-flight'] as const;
export type DrainMode = (typeof drainModes)[number];

/** Where a save with `holdLimitMs` waits to be let on (requirement D1; native/machine/rendezvous.h): ready, with the
 *  guest running; without disk requests under way; with the guest stopped; with the pause's work done. */
export const saveSteps = ['prepared', 'quiet', 'held', 'cut'] as const;
export type SaveStep = (typeof saveSteps)[number];

/** A redo log; `bytes` is the exact size of one that was sealed when it was recorded. */
export interface RedoLayer {
  path: string;
  bytes?: number;
}

/** One virtual disk as the addon opens it: a raw parent under redo logs, oldest first. */
export interface DiskLayers {
  parent: string;
  /** What the parent looked like when a checkpoint recorded it; a difference is refused. */
  parentIdentity?: FileIdentity;
  /** Id of the last redo log that was committed into the parent. */
  committed?: string;
  redo: RedoLayer[];
}

/** The oldest `logs` of a disk, all of them sealed, are to become part of what lies below. */
export interface CommitRequest {
  logs: number;
  /** A copy of the parent to commit into, which becomes the parent. */
  into?: string;
  /** An earlier commit of them was broken off. */
  again: boolean;
}

/** The parent of a disk after a commit. */
export interface CommittedParent {
  parent: string;
  parentIdentity: FileIdentity;
  committed?: string;
}

/** What one redo log of a disk has. */
export interface LogSurvey {
  path: string;
  bytes: number;
  /** It takes no more writes. */
  sealed: boolean;
  /** Of its data, what the disk is read from: what neither the log itself nor one above it hides. */
  liveBytes: number;
  /** Its size if it were compacted alone. */
  compactBytes: number;
}

/** Adjacent logs of a disk that one log is to replace. */
export interface LogRun {
  /** The oldest of them, counted from 0, the oldest of the disk. */
  first: number;
  logs: number;
  /** Of the one; may be that of one of them. */
  path: string;
}

/** What became of a damaged redo log. */
export interface RedoRepair {
  keptBytes: number;
  lostBytes: number;
}

/** Which layer of a disk holds what; `runs` cover all of it in order. */
export interface DiskMap {
  bytes: number;
  /** The redo logs, oldest first. */
  layers: { path: string; bytes: number; sealed: boolean }[];
  /** `layer` 0 is the parent, then the redo logs; `zeroes`: nothing is stored for it there. */
  runs: { offset: number; bytes: number; layer: number; zeroes: boolean }[];
}

/** Size and modification time of a file that must not have changed. */
export interface FileIdentity {
  bytes: number;
  /** Nanoseconds since the epoch, decimal. */
  mtimeNs: string;
}

export interface NativeDiskConfig extends DiskLayers {
  id: string;
  /** readonly: the guest may not write. direct: writes go to the parent (a persistent disk without
   *  redo logs). redo: writes go to the last redo log. */
  access: 'readonly' | 'direct' | 'redo';
}

export interface NativeMachineConfig {
  memoryBytes: number;
  cpus: number;
  geometry: Geometry;
  trace: TraceName;
  disks: NativeDiskConfig[];
}

/** How a guest ended: by itself (`reason` is its own), or because the VM was stopped. */
export interface GuestExit {
  kind: 'shutdown' | 'reboot' | 'failure' | 'stopped';
  reason: number;
}

/** What a checkpoint needs; the paths are absolute. */
export interface SaveRequest {
  /** Of the checkpoint that is made: what memory is tracked against once the save is good. */
  id: string;
  /**
   * Existing directory, the unpublished checkpoint: receives memory.map and new segments, and holds links
   * of the base's segments.
   */
  directory: string;
  codec: Codec;
  /**
   * An earlier checkpoint to refer to for blocks that have not changed (requirement F4): its id, and the
   * directory whose memory.map is read. Memory that is tracked against another one is saved in full.
   */
  base?: { id: string; directory: string };
  /** The guest stays paused afterwards, in state `paused`; one resume() lets it go on (requirement B9). */
  suspend: boolean;
  drain: DrainMode;
  /** Of what background threads save (requirement B6); unlimited when absent. */
  limitBytesPerSecond?: number;
  /** The redo log that takes each disk's writes from the pause on, created by the addon before it. */
  redo: { disk: string; path: string }[];
  /** The save waits at each of its steps, and fails when others have held up the guest for so long. */
  holdLimitMs?: number;
  /** Keeps a copy of RAM taken inside the pause, for tests ({@link NativeMachine.oracle}). */
  oracle: boolean;
}

/** How many memory blocks of a checkpoint came from where. */
export interface BlockCounts {
  vcpu: number;
  background: number;
  zero: number;
  /** Unchanged since the base, and referred to there. */
  parent: number;
  /** With the contents of another block of the checkpoint. */
  duplicate: number;
}

/** What a save did; becomes part of the manifest. Times in µs, sizes in bytes. */
export interface SaveResult {
  pauseUs: number;
  phasesUs: { quiesce: number; arm: number; state: number; switch: number; wait: number };
  totalUs: number;
  memoryBytes: number;
  storedBytes: number;
  /** Whether it refers to the base for blocks that have not changed. */
  incremental: boolean;
  /** Names of the segments that memory.map refers to, the base's included. */
  segments: string[];
  blocks: BlockCounts;
  faults: number;
  /** The layers that hold each disk as it was in the pause; absolute paths. */
  disks: (NativeDiskConfig & { parentIdentity: FileIdentity })[];
  deviceState: string;
  /** Guest time at the pause, in ticks of 100 ns. */
  guestTicks: string;
}

export interface RestoreRequest {
  /** Of the checkpoint: what memory is tracked against from then on. */
  id: string;
  deviceState: string;
  lazy: boolean;
  /**
   * The order in which the guest needed memory after earlier restores (requirement F3): read if it is there,
   * replaced when this restore is complete.
   */
  orderFile?: string;
  /** Of what background threads load (requirement C8); unlimited when absent. */
  limitBytesPerSecond?: number;
}

/** The memory of a checkpoint, opened for a restore; opaque. */
export interface RestoreImage {
  readonly opaque: unique symbol;
}

export interface RestoreProgress {
  done: boolean;
  /** Why some of it cannot be loaded, once all the rest is; '' when all can be, as far as is known. */
  error: string;
  blocks: { total: number; demand: number; prefetched: number; zero: number };
  faults: number;
  firstInstructionUs: number;
  completeUs: number;
}

export interface SaveProgress {
  blocksTotal: number;
  blocksSaved: number;
  storedBytes: number;
}

export interface MachineStatus {
  state: 'created' | 'running' | 'paused' | 'failed' | 'ended';
  instructions: number;
  faults: number;
  mappings: number;
  guestTicks: string;
  /** Written since the checkpoint that memory is tracked against; all of RAM when there is none. */
  dirtyBytes: number;
  /** The checkpoint that memory is tracked against. */
  trackedId?: string;
  error?: string;
}

export type MachineEvent =
  | { type: 'console'; data: Buffer }
  | { type: 'exit'; exit: GuestExit }
  | { type: 'error'; message: string };

/** One damaged or suspicious place that verification found. */
export interface Damage {
  file: string;
  what: string;
}

/** What long work may be given: to tell how far it is, and to be stopped with CANCELLED. */
export interface TaskHooks {
  /** Bytes done, and all of them. */
  onProgress?: ((doneBytes: number, totalBytes: number) => void) | undefined;
  signal?: AbortSignal | undefined;
}

/** What differs between the memories of two checkpoints. */
export interface MemoryDiff {
  memoryBytes: number;
  /** What is compared as one: the smaller of the two checkpoints' memory blocks. */
  blockBytes: number;
  blocks: number;
  changedBlocks: number;
  /** Of whole blocks. */
  changedBytes: number;
  /** Ascending and apart from one another, at most 10,000: `truncated` says when there are more. */
  ranges: { offset: number; bytes: number }[];
  truncated: boolean;
}

/** What a compaction does, or would do. */
export interface Compaction {
  /** Different segments in all checkpoints, and their bytes. */
  segments: number;
  segmentBytes: number;
  /** Those that are replaced. */
  rewritten: number;
  rewrittenBytes: number;
  /** Those that replace them; planned bytes are an upper bound. */
  written: number;
  writtenBytes: number;
  /** Checkpoints whose memory.map changes: their index in what was given, and (when it is done) the
   *  segments that their new memory.map refers to. */
  checkpoints: { index: number; segments: string[] }[];
}

/** Segments that verifications of one run have found whole: they are read once however many checkpoints
 *  share them. Opaque; made by {@link verifiedSegments}. */
export interface VerifiedSegments {
  readonly verified: unique symbol;
}
