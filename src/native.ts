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
import type {
  ByteSource,
  Compaction,
  Damage,
  DiskLayers,
  FileIdentity,
  GuestExit,
  MachineEvent,
  MachineStatus,
  MemoryDiff,
  NativeMachineConfig,
  RestoreProgress,
  RestoreImage,
  RestoreRequest,
  SaveProgress,
  SaveRequest,
  SaveResult,
  TaskHooks,
  VerifiedSegments,
} from './native/values.js';

export * from './native/values.js';

interface RawMachine {
  loadFile(path: string, fileOffset: number, bytes: number, address: number): void;
  load(address: number, data: Uint8Array): void;
  boot(entry: number, deviceTree: number): void;
  restore(request: string, image: RestoreImage): Promise<void>;
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
  openRestoreImage(directory: string): Promise<RestoreImage>;
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
  restore(request: RestoreRequest, image: RestoreImage): Promise<void> {
    return callAsync(() => this.#raw.restore(JSON.stringify(request), image));
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

/** The memory of a checkpoint, for NativeMachine.restore(). */
export function openRestoreImage(directory: string): Promise<RestoreImage> {
  return callAsync(() => addon().openRestoreImage(directory));
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
