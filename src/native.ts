/**
 * The one typed interface to the native addon. Nothing else loads it.
 *
 * Few verbs, values in and values out; compound values cross as JSON text (native/machine/machine_config.h
 * has the same shapes). Arguments are validated before; every failure arrives as a {@link CkptError} with
 * the addon's code (native/base/error.h).
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

export const codecs = ['none', 'lz4', 'zstd'] as const;
export type Codec = (typeof codecs)[number];

/** How accesses to guest memory are made to trap; the default comes first (docs/design.md). */
export const traceNames = ['soft', 'mprotect', 'userfaultfd'] as const;
export type TraceName = (typeof traceNames)[number];

/** What becomes of disk requests in flight at a checkpoint (requirement A14): completed before the pause,
 *  or part of the checkpoint. */
export const drainModes = ['drain', 'in-flight'] as const;
export type DrainMode = (typeof drainModes)[number];

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
  redo: RedoLayer[];
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
  phasesUs: { quiesce: number; arm: number; state: number; switch: number };
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
  /** Checkpoint directory that holds memory.map and its segments. */
  directory: string;
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

interface RawMachine {
  loadFile(path: string, fileOffset: number, bytes: number, address: number): void;
  load(address: number, data: Uint8Array): void;
  boot(entry: number, deviceTree: number): void;
  restore(request: string): Promise<void>;
  start(): void;
  pause(): Promise<void>;
  resume(): void;
  save(request: string, onResumed: (pauseUs: number) => void): Promise<string>;
  cancelSave(): void;
  retryRestore(): void;
  saveProgress(): string;
  restoreProgress(): string;
  consoleInput(data: Uint8Array): void;
  status(): string;
  memory(): ByteSource;
  savingMemory(): ByteSource;
  disk(id: string): ByteSource;
  oracle(): Buffer;
  close(): Promise<void>;
}

/** Work under way in the addon. */
interface RawTask {
  result: Promise<string>;
  cancel(): void;
}
type RawProgress = (doneBytes: number, totalBytes: number) => void;

interface Addon {
  Machine: new (
    config: string,
    onEvent: (type: MachineEvent['type'], payload: Buffer | string) => void,
  ) => RawMachine;
  openMemoryImage(directory: string): Promise<ByteSource>;
  openDisk(layers: string): Promise<ByteSource>;
  verifiedSegments(): VerifiedSegments;
  verifyMemoryImage(
    directory: string,
    verified: VerifiedSegments,
    onProgress: RawProgress,
  ): RawTask;
  diffMemoryImages(before: string, after: string, onProgress: RawProgress): RawTask;
  planCompaction(directories: string): Promise<string>;
  compactCheckpoints(targets: string, onProgress: RawProgress): RawTask;
  exchangeDirectories(one: string, other: string): Promise<void>;
  verifyRedoLog(path: string, bytes: number): Promise<string>;
  createRedoLog(layers: string, path: string): Promise<void>;
  fileIdentity(path: string): string;
  lockFile(path: string): FileLock | undefined;
}

/** An advisory lock; released by unlock() or with the process. */
export interface FileLock {
  unlock(): void;
}

/** The addon's failure as a CkptError; anything else passes through. */
function wrapped(error: unknown): unknown {
  if (error instanceof Error && 'code' in error && isErrorCode(error.code)) {
    return new CkptError(error.code, error.message, {}, { cause: error });
  }
  return error;
}

function call<T>(body: () => T): T {
  try {
    return body();
  } catch (error) {
    throw wrapped(error);
  }
}

async function callAsync<T>(body: () => Promise<T>): Promise<T> {
  try {
    return await body();
  } catch (error) {
    throw wrapped(error);
  }
}

/** Runs work of the addon to its end, which its hooks may bring about early. */
async function runTask<T>(
  hooks: TaskHooks,
  start: (onProgress: RawProgress) => RawTask,
): Promise<T> {
  if (hooks.signal?.aborted) throw new CkptError('CANCELLED', 'cancelled');
  let running = true;
  const task = call(() =>
    start((done, total) => {
      if (running) hooks.onProgress?.(done, total);
    }),
  );
  const cancel = (): void => task.cancel();
  hooks.signal?.addEventListener('abort', cancel);
  try {
    return JSON.parse(await callAsync(() => task.result)) as T;
  } finally {
    running = false;
    hooks.signal?.removeEventListener('abort', cancel);
  }
}

let loaded: Addon | undefined;

/** The addon, loaded at first use so that commands that do not need it start quickly. */
function addon(): Addon {
  if (loaded === undefined) {
    // This file runs as dist/src/native.js; the build puts the addon into build/Release.
    const path = fileURLToPath(new URL('../../build/Release/ckptfs.node', import.meta.url));
    try {
      loaded = createRequire(import.meta.url)(path) as Addon;
    } catch (cause) {
      throw new CkptError(
        'UNSUPPORTED',
        `the native addon cannot be loaded (${(cause as Error).message}); run npm run setup`,
        { path },
        { cause },
      );
    }
  }
  return loaded;
}

/** A source whose failures are CkptErrors. */
function source(raw: ByteSource): ByteSource {
  return {
    bytes: raw.bytes,
    read: (into, position) => callAsync(() => raw.read(into, position)),
    close: () => raw.close(),
  };
}

/** A virtual machine: memory, vCPUs, devices, disks. Ended by close(). */
export class NativeMachine {
  readonly #raw: RawMachine;

  /** `onEvent` is called on the JavaScript thread, console data in batches. */
  constructor(config: NativeMachineConfig, onEvent: (event: MachineEvent) => void) {
    this.#raw = call(
      () =>
        new (addon().Machine)(JSON.stringify(config), (type, payload) => {
          if (type === 'console') onEvent({ type, data: payload as Buffer });
          else if (type === 'exit')
            onEvent({ type, exit: JSON.parse(payload as string) as GuestExit });
          else onEvent({ type, message: payload as string });
        }),
    );
  }

  /** Copies part of a file into guest RAM at a guest-physical address, before start. */
  loadFile(path: string, fileOffset: number, bytes: number, address: number): void {
    call(() => this.#raw.loadFile(path, fileOffset, bytes, address));
  }

  /** Copies bytes into guest RAM at a guest-physical address, before start. */
  load(address: number, data: Uint8Array): void {
    call(() => this.#raw.load(address, data));
  }

  /** Boot state of the vCPUs; `deviceTree` is a guest-physical address. */
  boot(entry: number, deviceTree: number): void {
    call(() => this.#raw.boot(entry, deviceTree));
  }

  /** Loads device state and arms the lazy restore, or loads all memory; start() then runs the guest. */
  restore(request: RestoreRequest): Promise<void> {
    return callAsync(() => this.#raw.restore(JSON.stringify(request)));
  }

  start(): void {
    call(() => this.#raw.start());
  }

  /** Resolves when every vCPU stands at an instruction boundary. Pauses nest. */
  pause(): Promise<void> {
    return callAsync(() => this.#raw.pause());
  }

  resume(): void {
    call(() => this.#raw.resume());
  }

  /**
   * A checkpoint (A1 to A3, B9). Resolves when memory.map is complete and everything is durable;
   * `onResumed` is called when the work of the pause is done: the guest runs again, unless it is suspended.
   */
  async save(request: SaveRequest, onResumed: (pauseUs: number) => void): Promise<SaveResult> {
    const text = await callAsync(() => this.#raw.save(JSON.stringify(request), onResumed));
    return JSON.parse(text) as SaveResult;
  }

  /** Makes a save under way reject with CANCELLED; its traces are lifted. */
  cancelSave(): void {
    this.#raw.cancelSave();
  }

  /** Lets vCPUs that wait for a block that could not be read try again, and the guest run. */
  retryRestore(): void {
    call(() => this.#raw.retryRestore());
  }

  saveProgress(): SaveProgress | undefined {
    return (JSON.parse(this.#raw.saveProgress()) as SaveProgress | null) ?? undefined;
  }

  restoreProgress(): RestoreProgress | undefined {
    return (JSON.parse(this.#raw.restoreProgress()) as RestoreProgress | null) ?? undefined;
  }

  consoleInput(data: Uint8Array): void {
    this.#raw.consoleInput(data);
  }

  /** USAGE after close(). */
  status(): MachineStatus {
    const status = JSON.parse(this.#raw.status()) as MachineStatus | null;
    if (status === null) throw new CkptError('USAGE', 'the machine has been closed');
    return status;
  }

  /** Guest RAM now; a read faults in blocks that a lazy restore has not loaded. */
  memory(): ByteSource {
    return source(call(() => this.#raw.memory()));
  }

  /**
   * RAM as the save under way keeps it (requirement F1): there from its pause on; a source that is open
   * stays readable when the save is complete. USAGE when no save has come so far.
   */
  savingMemory(): ByteSource {
    return source(call(() => this.#raw.savingMemory()));
  }

  /** A virtual disk now, merged. */
  disk(id: string): ByteSource {
    return source(call(() => this.#raw.disk(id)));
  }

  /** RAM as it was inside the pause of the last save with `oracle`. */
  oracle(): Buffer {
    return call(() => this.#raw.oracle());
  }

  /** Stops the guest and releases everything. The object may not be used afterwards. */
  close(): Promise<void> {
    return callAsync(() => this.#raw.close());
  }
}

/** RAM of a checkpoint directory: lazily read, decompressed and checked. */
export async function openMemoryImage(directory: string): Promise<ByteSource> {
  return source(await callAsync(() => addon().openMemoryImage(directory)));
}

/** A disk of a checkpoint, merged. */
export async function openDisk(layers: DiskLayers): Promise<ByteSource> {
  return source(await callAsync(() => addon().openDisk(JSON.stringify(layers))));
}

/** For the verifications of one run. */
export function verifiedSegments(): VerifiedSegments {
  return addon().verifiedSegments();
}

/** Reads and checks every byte of memory.map and its segments; of segments that are in `verified` already,
 *  all but the bodies. */
export function verifyMemoryImage(
  directory: string,
  hooks: TaskHooks & { verified?: VerifiedSegments | undefined } = {},
): Promise<Damage[]> {
  const verified = hooks.verified ?? verifiedSegments();
  return runTask(hooks, (onProgress) => addon().verifyMemoryImage(directory, verified, onProgress));
}

/** Compares the memories in two checkpoint directories; progress in bytes of memory. USAGE when they are
 *  not of the same size. */
export function diffMemoryImages(
  before: string,
  after: string,
  hooks: TaskHooks = {},
): Promise<MemoryDiff> {
  return runTask(hooks, (onProgress) => addon().diffMemoryImages(before, after, onProgress));
}

/** What compacting all checkpoints of a VM, given by directory, would do. */
export async function planCompaction(directories: string[]): Promise<Compaction> {
  const text = await callAsync(() => addon().planCompaction(JSON.stringify(directories)));
  return JSON.parse(text) as Compaction;
}

/** Makes `staging` of each checkpoint that changes, with its new memory.map and new segments; the rest,
 *  and the removal of staging directories after a failure, is the caller's. */
export function compactCheckpoints(
  targets: { directory: string; staging: string }[],
  hooks: TaskHooks = {},
): Promise<Compaction> {
  return runTask(hooks, (onProgress) =>
    addon().compactCheckpoints(JSON.stringify(targets), onProgress),
  );
}

/** Lets two directories of one filesystem change names, at once. UNSUPPORTED where it cannot. */
export function exchangeDirectories(one: string, other: string): Promise<void> {
  return callAsync(() => addon().exchangeDirectories(one, other));
}

/** Reads and checks every byte of a sealed redo log that must have exactly `bytes` bytes. */
export async function verifyRedoLog(path: string, bytes: number): Promise<Damage[]> {
  return JSON.parse(await callAsync(() => addon().verifyRedoLog(path, bytes))) as Damage[];
}

/** Creates at `path` an empty redo log that follows the newest of `layers`. */
export function createRedoLog(layers: DiskLayers, path: string): Promise<void> {
  return callAsync(() => addon().createRedoLog(JSON.stringify(layers), path));
}

/** Size and modification time of a disk's parent; its size is that of the disk. */
export function fileIdentity(path: string): FileIdentity {
  return JSON.parse(call(() => addon().fileIdentity(path))) as FileIdentity;
}

/** Takes the advisory lock on a file (made if missing); undefined when another process holds it. */
export function lockFile(path: string): FileLock | undefined {
  return call(() => addon().lockFile(path));
}

/** True when the addon can be loaded; `doctor` tells why not. */
export function probe(): void {
  addon();
}
