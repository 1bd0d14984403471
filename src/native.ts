/**
 * The one typed interface to the native addon. Nothing else loads it.
 *
 * Few verbs, values in and values out; compound values cross as JSON text (native/machine/machine_config.h
 * has the same shapes). Arguments are validated before; every failure arrives as a {@link CkptError} with
 * the addon's code (native/base/error.h).
 */
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { CkptError } from './errors.js';
import type {
  ByteSource,
  CommitRequest,
  CommittedParent,
  Compaction,
  Damage,
  DiskLayers,
  DiskMap,
  FileIdentity,
  GuestExit,
  LogRun,
  LogSurvey,
  MachineEvent,
  MachineStatus,
  MemoryDiff,
  NativeMachineConfig,
  RestoreProgress,
  RedoRepair,
  RestoreImage,
  RestoreRequest,
  SaveProgress,
  SaveRequest,
  SaveResult,
  SaveStep,
  TaskHooks,
  VerifiedSegments,
  WritableSource,
} from './native/values.js';
import { Arrivals } from './native/arrivals.js';
import { call, callAsync, runTask } from './native/calls.js';
import type { RawFuseSessionClass } from './native/fuse.js';
import type { Addon, Checksum, FileLock, RawMachine, RawSource } from './native/raw.js';

export { Arrivals, arrivalPieceBytes } from './native/arrivals.js';
export * from './native/fuse.js';
export type { Checksum, FileLock } from './native/raw.js';
export * from './native/values.js';

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

/** Memory to read or write in bulk, not initialised: a Buffer of Node's own is several times slower (base/page_buffer.h). */
export function pageBuffer(bytes: number): Buffer {
  return call(() => addon().pageBuffer(bytes));
}

/** A source whose failures are CkptErrors. */
function source(raw: RawSource): ByteSource {
  return {
    bytes: raw.bytes,
    read: (into, position) => callAsync(() => raw.read(into, position)),
    close: () => raw.close(),
    native: raw,
  };
}

/** A virtual machine: memory, vCPUs, devices, disks. Ended by close(). */
export class NativeMachine {
  readonly #raw: RawMachine;
  #started: Promise<void> = Promise.resolve();

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

  /** Runs the guest. Resolves when its devices do too, which may have to wait for memory that is still arriving. */
  start(): Promise<void> {
    const started = callAsync(() => this.#raw.start());
    this.#started = started.catch(() => undefined);
    return started;
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
   * With `holdLimitMs` it waits at each step, after it was told, for proceedSave().
   */
  async save(
    request: SaveRequest,
    onResumed: (pauseUs: number) => void,
    onStep: (step: SaveStep) => void = () => {},
  ): Promise<SaveResult> {
    const onEvent = (text: string): void => {
      const event = JSON.parse(text) as { pauseUs: number } | { step: SaveStep };
      if ('step' in event) onStep(event.step);
      else onResumed(event.pauseUs);
    };
    const text = await callAsync(() => this.#raw.save(JSON.stringify(request), onEvent));
    return JSON.parse(text) as SaveResult;
  }

  /** Lets a save that waits at `step` go on. USAGE when none does. */
  proceedSave(step: SaveStep): void {
    call(() => this.#raw.proceedSave(step));
  }

  /** Makes a save under way reject with CANCELLED; its traces are lifted. */
  cancelSave(): void {
    this.#raw.cancelSave();
  }

  /** From now on a disk's writes go to a new log at `path`; those below it are sealed. BUSY during a save. */
  freezeDisk(id: string, path: string): Promise<void> {
    return callAsync(() => this.#raw.freezeDisk(id, path));
  }

  /** Commits sealed logs of a disk while the guest goes on. BUSY while others use its parent. */
  commitDisk(id: string, request: CommitRequest, hooks: TaskHooks = {}): Promise<CommittedParent> {
    return runTask(hooks, (onProgress) =>
      this.#raw.commitDisk(id, JSON.stringify(request), onProgress),
    );
  }

  /** What is in the redo logs of a disk now, oldest first. */
  async surveyDisk(id: string): Promise<LogSurvey[]> {
    return JSON.parse(await callAsync(() => this.#raw.surveyDisk(id))) as LogSurvey[];
  }

  /** Replaces runs of sealed logs of a disk by one log each, while the guest goes on; the logs from then on. */
  compactDisk(id: string, runs: LogRun[], hooks: TaskHooks = {}): Promise<LogSurvey[]> {
    return runTask(hooks, (onProgress) =>
      this.#raw.compactDisk(id, JSON.stringify(runs), onProgress),
    );
  }

  /** Lets vCPUs that wait for a block that could not be read try again, and the guest run. */
  retryRestore(): Promise<void> {
    return callAsync(() => this.#raw.retryRestore());
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
  async close(): Promise<void> {
    await this.#started;
    await callAsync(() => this.#raw.close());
  }
}

/** RAM of a checkpoint directory: lazily read, decompressed and checked; behind the bytes of `front`. */
export async function openMemoryImage(directory: string, front?: Uint8Array): Promise<ByteSource> {
  return source(await callAsync(() => addon().openMemoryImage(directory, front)));
}

/** How much of the RAM of a checkpoint directory is not zero, in whole memory blocks. */
export async function memoryDataBytes(directory: string): Promise<number> {
  const raw = await callAsync(() => addon().openMemoryImage(directory));
  try {
    return await callAsync(() => raw.dataBytes());
  } finally {
    raw.close();
  }
}

/** The memory of a checkpoint, for NativeMachine.restore(). */
export function openRestoreImage(directory: string): Promise<RestoreImage> {
  return callAsync(() => addon().openRestoreImage(directory));
}

/** A disk of a checkpoint, merged. */
export async function openDisk(layers: DiskLayers): Promise<ByteSource> {
  return source(await callAsync(() => addon().openDisk(JSON.stringify(layers))));
}

/** A disk of a checkpoint with writes on top, which go to the redo log at `path`: one that was kept, or a new one. */
export async function openOverlay(layers: DiskLayers, path: string): Promise<WritableSource> {
  const raw = await callAsync(() => addon().openOverlay(JSON.stringify(layers), path));
  return {
    ...source(raw),
    write: (from, position) => callAsync(() => raw.write(from, position)),
    flush: () => callAsync(() => raw.flush()),
  };
}

/** A file that is open, and may be closed afterwards; `path` is for messages. */
export function fileSource(fd: number, path: string): ByteSource {
  return source(call(() => addon().fileSource(fd, path)));
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

/** Reads and checks every byte of a redo log; with `bytes`, that it is sealed and has exactly so many. */
export async function verifyRedoLog(path: string, bytes?: number): Promise<Damage[]> {
  return JSON.parse(await callAsync(() => addon().verifyRedoLog(path, bytes))) as Damage[];
}

/** Writes to `into` what of a damaged redo log comes before the first record that is not whole. */
export async function repairRedoLog(path: string, into: string): Promise<RedoRepair> {
  return JSON.parse(await callAsync(() => addon().repairRedoLog(path, into))) as RedoRepair;
}

/** Which layer of a disk holds what. */
export async function mapDisk(layers: DiskLayers): Promise<DiskMap> {
  const text = await callAsync(() => addon().mapDisk(JSON.stringify(layers)));
  const map = JSON.parse(text) as Omit<DiskMap, 'runs'> & {
    runs: [number, number, number, boolean][];
  };
  const runs = map.runs.map(([offset, bytes, layer, zeroes]) => ({ offset, bytes, layer, zeroes }));
  return { ...map, runs };
}

/** Creates at `path` an empty redo log that follows the newest of `layers`. */
export function createRedoLog(layers: DiskLayers, path: string): Promise<void> {
  return callAsync(() => addon().createRedoLog(JSON.stringify(layers), path));
}

/** Commits all logs of a disk that no VM runs with. BUSY while others use its parent. */
export function commitDisk(
  layers: DiskLayers,
  request: CommitRequest,
  hooks: TaskHooks = {},
): Promise<CommittedParent> {
  return runTask(hooks, (onProgress) =>
    addon().commitDisk(JSON.stringify(layers), JSON.stringify(request), onProgress),
  );
}

/** What is in the redo logs of a disk that no VM runs with, oldest first. */
export async function surveyDisk(layers: DiskLayers): Promise<LogSurvey[]> {
  const text = await callAsync(() => addon().surveyDisk(JSON.stringify(layers)));
  return JSON.parse(text) as LogSurvey[];
}

/** Replaces runs of logs of a disk that no VM runs with by one log each, and seals the newest if it is among
 *  them; the logs from then on. */
export function compactDisk(
  layers: DiskLayers,
  runs: LogRun[],
  hooks: TaskHooks = {},
): Promise<LogSurvey[]> {
  return runTask(hooks, (onProgress) =>
    addon().compactDisk(JSON.stringify(layers), JSON.stringify(runs), onProgress),
  );
}

/** Whether a redo log has been sealed, and so takes no more writes. */
export function isSealedLog(path: string): boolean {
  return call(() => addon().isSealedLog(path));
}

/** Size and modification time of a disk's parent; its size is that of the disk. */
export function fileIdentity(path: string): FileIdentity {
  return JSON.parse(call(() => addon().fileIdentity(path))) as FileIdentity;
}

/** The beginning and the end of a small file as one text, or all of it when it is no longer than both. */
export interface FileEnds {
  text: string;
  modifiedAt: Date;
}

/** Reads the first `head` and the last `tail` bytes of many files; undefined where there is none. IO. */
export async function readFileEnds(
  paths: readonly string[],
  { head, tail }: { head: number; tail: number },
): Promise<(FileEnds | undefined)[]> {
  const all = await callAsync(() => addon().readFileEnds(paths, head, tail));
  return all.map((ends) =>
    ends === null ? undefined : { text: ends[0], modifiedAt: new Date(ends[1]) },
  );
}

/**
 * Copies a file of `bytes` by the kernel, from `from` on, to one that is made if it is not there; holes stay holes.
 * Neither may be a symbolic link. Not durable yet. NOT_FOUND, NO_SPACE, IO, CANCELLED.
 */
export async function copyFile(
  source: string,
  target: string,
  { from, bytes }: { from: number; bytes: number },
  hooks: TaskHooks = {},
): Promise<void> {
  await runTask<null>(hooks, (onProgress) =>
    addon().copyFile(source, target, from, bytes, onProgress),
  );
}

/** Sets the modification time of a file, in nanoseconds since the epoch, decimal (at most 19 digits). */
export function setModified(path: string, mtimeNs: string): void {
  call(() => addon().setModified(path, mtimeNs));
}

/** A checksum to be fed in pieces: XXH3-64, the one of all formats. */
export function checksum(): Checksum {
  return addon().checksum();
}

/** Files that arrive while they are read; `onWanted` is called when readers have begun to wait. */
export function arrivals(onWanted: () => void): Arrivals {
  return new Arrivals(call(() => addon().arrivals(onWanted)));
}

/** Makes a range of a file a hole, which reads as zeros; false where that cannot be. */
export function punchHole(fd: number, offset: number, bytes: number): boolean {
  return call(() => addon().punchHole(fd, offset, bytes));
}

/**
 * Until the function that it returns is called, once, other threads take the signals of the process; and those that this
 * thread makes meanwhile never do.
 */
export function holdSignals(): () => void {
  return call(() => addon().holdSignals());
}

/** Takes the advisory lock on a file (made if missing); undefined when another process holds it. */
export function lockFile(path: string): FileLock | undefined {
  return call(() => addon().lockFile(path));
}

/** FUSE sessions, for the transport that serves them; undefined where the addon was built without libfuse 3. */
export function fuseSessionClass(): RawFuseSessionClass | undefined {
  return addon().FuseSession;
}

/** True when the addon can be loaded; `doctor` tells why not. */
export function probe(): void {
  addon();
}
