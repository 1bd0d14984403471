/**
 * The nouns that the VM layer shares with the checkpoint store and the commands: plain values and the
 * narrow interfaces of a VM and of a client of one. No code: importing it costs nothing.
 */
import type {
  BlockCounts,
  Codec,
  DrainMode,
  Geometry,
  GuestExit,
  RestoreProgress,
  SaveProgress,
  SaveStep,
  TaskHooks,
  TraceName,
} from './native.js';

/** One virtual disk as a user asks for it. */
export interface DiskConfig {
  id: string;
  /** The parent: a raw file. */
  path: string;
  mode: 'persistent' | 'nonpersistent';
  readonly: boolean;
}

/** What a VM is made of: validated by src/vmm/config.ts, stored as config.json and in every manifest. */
export interface VmConfig {
  name: string;
  kernel: string;
  initrd?: string | undefined;
  append: string;
  memoryBytes: number;
  cpus: number;
  disks: DiskConfig[];
  trace: TraceName;
  geometry: Geometry;
  /** When it takes checkpoints by itself. */
  schedule?: ScheduleConfig | undefined;
}

/** Checkpoints without anybody asking (src/vmm/schedule.ts). */
export interface ScheduleConfig {
  everySeconds?: number | undefined;
  /** When so much memory has been written since the last one. */
  afterWrittenBytes?: number | undefined;
  /** How many of the scheduled ones to keep; all when absent. */
  keep?: number | undefined;
}

export interface ScheduleStatus extends ScheduleConfig {
  taken: number;
  /** Fell due when none could be taken. */
  missed: number;
  nextAt?: string;
  last?: string;
  lastAt?: string;
}

/** A configuration file or command-line flags, not yet validated and without the defaults. */
export type VmConfigInput = Partial<Omit<VmConfig, 'disks'>> & {
  disks?: Partial<DiskConfig>[];
};

/** What `info` and `list` show; also written to status.json. Optional keys are absent when not applicable. */
export interface VmStatus {
  vm: string;
  state: 'starting' | 'running' | 'paused' | 'failed' | 'ended';
  pid: number;
  startedAt: string;
  memoryBytes: number;
  cpus: number;
  instructions: number;
  /** Guest time in ticks of 100 ns, decimal. */
  guestTicks: string;
  faults: number;
  mappings: number;
  /** Memory written since the checkpoint that it is tracked against; all of it when there is none. */
  dirtyBytes: number;
  trackedId?: string;
  /** The checkpoint that the VM is suspended with. */
  suspended?: { id: string; name: string };
  error?: string;
  /** The last checkpoint that failed without a caller to be told, until one is published. */
  lastError?: CheckpointFailure;
  schedule?: ScheduleStatus;
  exit?: GuestExit;
  /** The save under way. */
  save?: SaveProgress & { id: string; name: string };
  /** The restore that this VM came from, done or not. */
  restore?: RestoreProgress & {
    id: string;
    /** The call that its times count from. */
    begunAt: string;
  };
  /** What has come of the checkpoint that the VM goes on from, until all of it is in the store. */
  arriving?: ArrivingStatus;
  mount?: string;
}

/** A checkpoint that is coming from another host while its VM runs. */
export interface ArrivingStatus {
  doneBytes: number;
  totalBytes: number;
  /** Why nothing comes just now. */
  error?: string;
}

/** Several VMs that are checkpointed at one moment (requirement D1; src/vmm/together.ts). */
export interface CheckpointGroup {
  /** The same in all of their checkpoints: 128 random bits in hex. */
  id: string;
  /** Their names. */
  vms: string[];
}

/** Where a checkpoint of a group waits until the others are there too: the steps of its save, and durable but for
 *  its name. */
export type GroupStep = SaveStep | 'saved';

/** How a checkpoint is to be taken; src/checkpoint/request.ts has the defaults and validates. */
export interface CheckpointRequest {
  /** By default the time of the checkpoint. */
  name?: string | undefined;
  /** By default lz4. */
  codec?: Codec | undefined;
  /** False: answer once the guest runs again; the save goes on in the VM process. */
  wait?: boolean | undefined;
  /** The guest stays paused afterwards. */
  suspend?: boolean | undefined;
  /** The parents of the disks are copied, so that the checkpoint needs no file outside of its directory. */
  copyDisks?: boolean | undefined;
  /** By default `drain`. */
  drain?: DrainMode | undefined;
  /** All of memory is stored, whatever an earlier checkpoint has of it. */
  full?: boolean | undefined;
  /** Limit on what background threads store. */
  limitBytesPerSecond?: number | undefined;
  /** It is one of several of this moment. For so long (2000 ms by default, at most a minute) the others may hold up
   *  the guest; then it goes on, and the checkpoint is given up. */
  group?: (CheckpointGroup & { holdLimitMs?: number | undefined }) | undefined;
}

/** The result of `checkpoint`; with `wait: false` only what is known after the pause. */
export interface CheckpointSummary {
  vm: string;
  id: string;
  name: string;
  state: 'saving' | 'published';
  pauseUs: number;
  totalMs?: number;
  memoryBytes: number;
  storedBytes?: number;
  /** The checkpoint that this one refers to for what has not changed since; null for a full one. */
  parentId?: string | null;
  blocks?: BlockCounts;
  faults?: number;
  /** Of the checkpoint's group, if it has one. */
  group?: string;
}

export interface CheckpointFailure {
  /** Empty when it had none yet. */
  name: string;
  code: string;
  message: string;
  at: string;
}

/** What a VM tells of its checkpoints, whoever asked for them. */
export type CheckpointEvent =
  | { type: 'published'; checkpoint: CheckpointSummary }
  /** Nobody waited for it any more. */
  | { type: 'failed'; failure: CheckpointFailure }
  /** Fell due by the schedule when none could be taken. */
  | { type: 'missed'; why: string };

/** The console of a running VM: bytes from the guest, and bytes to it. */
export interface ConsoleStream {
  readonly readable: AsyncIterable<Uint8Array>;
  write(bytes: Uint8Array): void;
  /** Detaches; the guest goes on. */
  end(): void;
}

export interface CommitOptions {
  /** Copy a parent that others refer to, where that takes space. */
  copy?: boolean;
}

/** What a commit of a disk has done. */
export interface CommitSummary {
  vm: string;
  disk: string;
  /** How many redo logs; 0: there was nothing to commit. */
  logs: number;
  /** The parent from then on. */
  parent: string;
  /** Whether that is a copy, since others refer to the one before. */
  copied: boolean;
}

export interface CompactDiskOptions {
  /** Every log, also those that are mostly of use. */
  all?: boolean;
  /** Logs of which less than this percentage is of use; 50 by default. */
  threshold?: number;
}

/** What a compaction of a disk's redo logs has done. */
export interface CompactDiskSummary {
  vm: string;
  disk: string;
  /** How many logs were replaced, and by how many; 0: there was nothing to gain. */
  replaced: number;
  written: number;
  /** All logs of the disk, and their size. */
  logsBefore: number;
  logsAfter: number;
  bytesBefore: number;
  bytesAfter: number;
}

/** What a command may ask of a running VM (src/vmm/client.ts, the control socket). */
export interface VmControl {
  status(): Promise<VmStatus>;
  pause(): Promise<void>;
  resume(): Promise<void>;
  /** Ends the VM process and resolves when it has released the VM. */
  stop(): Promise<void>;
  /** Lets a VM whose restore source failed try again. */
  retry(): Promise<void>;
  checkpoint(
    request: CheckpointRequest,
    onProgress?: (progress: SaveProgress) => void,
    signal?: AbortSignal,
    onStep?: (step: GroupStep) => void,
  ): Promise<CheckpointSummary>;
  /** Lets the checkpoint of `group` that waits at `step` go on. */
  proceed(group: string, step: GroupStep): Promise<void>;
  /** Commits the redo logs of a disk while the guest goes on. */
  commitDisk(disk: string, options?: CommitOptions, hooks?: TaskHooks): Promise<CommitSummary>;
  /** Rewrites redo logs of a disk that are mostly of no use any more, while the guest goes on. */
  compactDisk(
    disk: string,
    options?: CompactDiskOptions,
    hooks?: TaskHooks,
  ): Promise<CompactDiskSummary>;
  console(): Promise<ConsoleStream>;
}

/** A VM inside its own process (src/vmm/vm.ts). Holds the VM's lock until close(). */
export interface VmProcess {
  readonly name: string;
  on(event: 'console', listener: (data: Buffer) => void): this;
  on(event: 'exit', listener: (exit: GuestExit) => void): this;
  on(event: 'error', listener: (error: Error) => void): this;
  on(event: 'checkpoint', listener: (event: CheckpointEvent) => void): this;
  /** Runs the guest. */
  start(): Promise<void>;
  /** Serves the control socket. */
  serve(): Promise<void>;
  consoleInput(data: Uint8Array): void;
  /** Takes a checkpoint because of an event, if one can be taken now (requirement B1). */
  declareCheckpoint(): void;
  status(): VmStatus;
  restoreProgress(): RestoreProgress | undefined;
  /** Ends the VM as if its plug were pulled; emits `exit`. */
  stop(): Promise<void>;
  /** Where this process serves its mount, for status. */
  mountpoint: string | undefined;
  /** Stops the guest, closes the disks and releases the lock. May be called twice. */
  close(): Promise<void>;
}
