/** What the addon exports, as src/native.ts finds it: compound values are JSON text. No code. */
import type { RawFuseSessionClass } from './fuse.js';
import type {
  ByteSource,
  MachineEvent,
  NativeSource,
  RestoreImage,
  VerifiedSegments,
  WritableSource,
} from './values.js';

export interface RawMachine {
  loadFile(path: string, fileOffset: number, bytes: number, address: number): void;
  load(address: number, data: Uint8Array): void;
  boot(entry: number, deviceTree: number): void;
  restore(request: string, image: RestoreImage): Promise<void>;
  start(): Promise<void>;
  pause(): Promise<void>;
  resume(): void;
  save(request: string, onEvent: (event: string) => void): Promise<string>;
  proceedSave(step: string): void;
  cancelSave(): void;
  freezeDisk(id: string, path: string): Promise<void>;
  commitDisk(id: string, request: string, onProgress: RawProgress): RawTask;
  surveyDisk(id: string): Promise<string>;
  compactDisk(id: string, runs: string, onProgress: RawProgress): RawTask;
  retryRestore(): Promise<void>;
  saveProgress(): string;
  restoreProgress(): string;
  consoleInput(data: Uint8Array): void;
  status(): string;
  memory(): RawSource;
  savingMemory(): RawSource;
  disk(id: string): RawSource;
  oracle(): Buffer;
  close(): Promise<void>;
}

/** Work under way in the addon. */
export interface RawTask {
  result: Promise<string>;
  cancel(): void;
}
export type RawProgress = (doneBytes: number, totalBytes: number) => void;

/** A source as the addon makes it. */
export type RawSource = ByteSource & NativeSource;

export interface Addon {
  Machine: new (
    config: string,
    onEvent: (type: MachineEvent['type'], payload: Buffer | string) => void,
  ) => RawMachine;
  /** Not there where it was built without libfuse 3. */
  FuseSession?: RawFuseSessionClass;
  pageBuffer(bytes: number): Buffer;
  openMemoryImage(directory: string, front?: Uint8Array): Promise<RawSource>;
  openRestoreImage(directory: string): Promise<RestoreImage>;
  openDisk(layers: string): Promise<RawSource>;
  openOverlay(layers: string, path: string): Promise<RawSource & WritableSource>;
  fileSource(fd: number, path: string): RawSource;
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
  verifyRedoLog(path: string, bytes: number | undefined): Promise<string>;
  repairRedoLog(path: string, into: string): Promise<string>;
  mapDisk(layers: string): Promise<string>;
  createRedoLog(layers: string, path: string): Promise<void>;
  commitDisk(layers: string, request: string, onProgress: RawProgress): RawTask;
  surveyDisk(layers: string): Promise<string>;
  compactDisk(layers: string, runs: string, onProgress: RawProgress): RawTask;
  isSealedLog(path: string): boolean;
  fileIdentity(path: string): string;
  readFileEnds(
    paths: readonly string[],
    head: number,
    tail: number,
  ): Promise<(readonly [text: string, modifiedMs: number] | null)[]>;
  copyFile(
    source: string,
    target: string,
    from: number,
    bytes: number,
    onProgress: RawProgress,
  ): RawTask;
  setModified(path: string, mtimeNs: string): void;
  lockFile(path: string): FileLock | undefined;
  checksum(): Checksum;
  arrivals(onWanted: () => void): RawArrivals;
  punchHole(fd: number, offset: number, bytes: number): boolean;
  holdSignals(): () => void;
}

/** Files that arrive, by the number that add() gives. */
export interface RawArrivals {
  add(fd: number, mtimeNs: string): number;
  /** JSON of [file, offset, bytes, urgent] each. */
  wanted(): string;
  arrived(file: number, offset: number, bytes: number): void;
  fail(): void;
  close(): void;
}

/** XXH3-64 of bytes that come in pieces, in 16 hexadecimal digits. */
export interface Checksum {
  update(bytes: Uint8Array): void;
  digest(): string;
}

/** An advisory lock; released by unlock() or with the process. */
export interface FileLock {
  unlock(): void;
}
