/**
 * The one typed interface to the native addon. Nothing else loads it.
 *
 * Few verbs, values in and values out: arguments are validated here or before, the addon asserts them.
 * Every failure arrives as a {@link CkptError} with the addon's code (see native/base/error.h).
 */
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { CkptError, isErrorCode } from './errors.js';

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
}

export type Codec = 'none' | 'lz4';

/** One virtual disk as the addon opens it: a raw parent under redo logs, oldest first. */
export interface DiskLayers {
  parent: string;
  /** What the parent looked like when a checkpoint recorded it; a difference is refused. */
  parentIdentity?: FileIdentity;
  redo: string[];
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
  trace: 'mprotect';
  disks: NativeDiskConfig[];
}

/** How a guest ended. */
export interface GuestExit {
  kind: 'shutdown' | 'reboot' | 'failure';
  reason: number;
}

/** Memory image files of a checkpoint directory, by absolute path. */
export interface SaveRequest {
  /** Existing directory, the unpublished checkpoint: receives memory.map and the two segments. */
  directory: string;
  codec: Codec;
  /** The redo log that takes each disk's writes from the pause on, created by the addon before it. */
  redo: { disk: string; path: string }[];
  /** Keeps a copy of RAM taken inside the pause, for tests ({@link NativeMachine.oracle}). */
  oracle?: boolean;
}

/** What a save did; becomes part of the manifest. Times in µs, sizes in bytes. */
export interface SaveResult {
  pauseUs: number;
  phasesUs: { quiesce: number; arm: number; state: number; switch: number };
  totalUs: number;
  memoryBytes: number;
  storedBytes: number;
  blocks: { vcpu: number; background: number; zero: number; parent: number };
  faults: number;
  deviceState: string;
  /** Guest time at the pause, in ticks of 100 ns. */
  guestTicks: string;
}

export interface RestoreRequest {
  /** Checkpoint directory that holds memory.map and its segments. */
  directory: string;
  deviceState: string;
  lazy: boolean;
}

export interface RestoreProgress {
  done: boolean;
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
  error?: string;
}

export type MachineEvent =
  | { type: 'console'; data: Buffer }
  | { type: 'exit'; exit: GuestExit }
  | { type: 'error'; message: string };

/** A virtual machine: memory, vCPUs, devices, disks. Ended by close(). */
export interface NativeMachine {
  /** Writes into guest RAM before start (kernel, initramfs, device tree). `address` is guest-physical. */
  load(address: number, data: Uint8Array): void;
  boot(entry: number, deviceTree: number): void;
  /** Loads device state and arms the lazy restore (or loads all memory); then start() runs the guest. */
  restore(request: RestoreRequest): Promise<void>;
  start(): void;
  pause(): Promise<void>;
  resume(): void;
  /** A live checkpoint. Resolves when memory.map is complete and everything is durable; the promise of
   *  `paused` fires right after the guest runs again. Rejects with the store as before. */
  save(request: SaveRequest): Promise<SaveResult>;
  saveProgress(): SaveProgress | undefined;
  cancelSave(): void;
  restoreProgress(): RestoreProgress | undefined;
  consoleInput(data: Uint8Array): void;
  status(): MachineStatus;
  /** Guest RAM now; a read faults in blocks that a lazy restore has not loaded. */
  memory(): ByteSource;
  /** A virtual disk now, merged. */
  disk(id: string): ByteSource;
  /** RAM as it was inside the pause of the last save with `oracle`. */
  oracle(): Buffer;
  close(): Promise<void>;
}

/** One damaged or suspicious place that verification found. */
export interface Damage {
  file: string;
  what: string;
}

export interface NativeModule {
  Machine: new (config: NativeMachineConfig, onEvent: (event: MachineEvent) => void) => NativeMachine;
  /** RAM of a checkpoint directory: lazily read, decompressed and checked. */
  openMemoryImage(directory: string): Promise<ByteSource>;
  /** A disk of a checkpoint, merged. */
  openDisk(layers: DiskLayers): Promise<ByteSource>;
  /** Reads and checks every byte of memory.map and its segments. */
  verifyMemoryImage(directory: string, onProgress?: (bytes: number) => void): Promise<Damage[]>;
  /** Reads and checks every byte of a redo log; `bytes` is its expected size when sealed. */
  verifyRedoLog(path: string, bytes: number): Promise<Damage[]>;
  createRedoLog(path: string, diskBytes: number): Promise<void>;
  /** Seals a redo log that no VM writes any more: size in bytes. */
  redoLogInfo(path: string): Promise<{ bytes: number; diskBytes: number; blocks: number }>;
  /** An advisory lock (flock) held until unlock(); undefined when another process holds it. */
  lockFile(path: string): { unlock(): void } | undefined;
  fileIdentity(path: string): FileIdentity;
}
