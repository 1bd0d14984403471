/**
 * What the tree shows, as values: the narrow interface between the mount and whatever keeps VMs and
 * checkpoints (store_view.ts for a store). Nothing here knows paths of the tree.
 */
import type { ByteSource, WritableSource } from '../native.js';
import type { StoredPath } from './stored.js';

/** A file whose bytes a source makes. */
export interface SourceFile {
  /** Known without opening it. */
  bytes: number;
  /** When it was written, in ms since the epoch, if that is not when the checkpoint was taken. */
  timeMs?: number;
  /** Bytes that are not in holes, or somewhat more; without it, all. May take some milliseconds. */
  dataBytes?(): Promise<number>;
  open(): Promise<ByteSource>;
}

/** A disk of a checkpoint. */
export interface DiskFile extends SourceFile {
  /**
   * The disk with writes on top, which go to the redo log at `log`, an older one or a new one; without it nothing
   * but the source has them, and they end with it.
   */
  openOverlay(log?: string): Promise<WritableSource>;
}

/** What a checkpoint says of itself; no more than its name and a time when it is damaged beyond that. */
export interface CheckpointOutline {
  name: string;
  createdAt: Date;
  id?: string;
  /** Id of the checkpoint that this one continues. */
  parentId?: string;
  /** Checksum of the manifest, and so of all that it names. */
  checksum?: string;
}

/** What is in a checkpoint whose manifest has been checked. */
export interface CheckpointView {
  id: string;
  /** As in its outline. */
  checksum: string;
  /** The checkpoint as stored. */
  directory: string;
  manifest: SourceFile;
  deviceState: SourceFile;
  memory: SourceFile;
  /** The same as an ELF core file. */
  memoryElf: SourceFile;
  disks: ReadonlyMap<string, DiskFile>;
}

/** A checkpoint that is being saved: its memory can be read already (requirement F1). */
export interface SavingView {
  name: string;
  id: string;
  begunAt: Date;
  memory: SourceFile;
}

/** A VM whose own process makes the mount. */
export interface LiveView {
  memory: SourceFile;
  disks: ReadonlyMap<string, SourceFile>;
  /** The checkpoint under way, from its pause on. */
  saving(): SavingView | undefined;
}

export interface VmView {
  createdAt: Date;
  status(): Promise<object>;
  /** Files of the VM shown as stored; names that are not there are not shown. */
  files: readonly StoredPath[];
  /** The files under each disk, by disk id. */
  layers(): Promise<ReadonlyMap<string, readonly StoredPath[]>>;
  /** Names of the published checkpoints, damaged ones included. */
  checkpointNames(): Promise<string[]>;
  /** Those that say who they are, oldest first; some may be damaged all the same. */
  outlines(): Promise<readonly CheckpointOutline[]>;
  /** Undefined when there is none of that name. */
  outline(name: string): Promise<CheckpointOutline | undefined>;
  /** Undefined when there is none of that name; rejects with DAMAGED when its manifest is damaged. */
  checkpoint(name: string): Promise<CheckpointView | undefined>;
  /** Takes a live checkpoint; resolves when it is published and so among the names. */
  takeCheckpoint(name: string): Promise<void>;
  /** Removes a checkpoint; resolves when it is not among the names any more. */
  removeCheckpoint(name: string): Promise<void>;
  live?: LiveView;
}

export interface StoreView {
  /** The directory of the store: no mountpoint may lie in it or around it. */
  root: string;
  vmNames(): Promise<string[]>;
  /** Undefined when there is none of that name. */
  vm(name: string): Promise<VmView | undefined>;
  /** True when a VM is live: its files change without their attributes showing it. */
  live: boolean;
  /**
   * Tells of each directory of the tree where a VM or a checkpoint has come, gone or been exchanged, and its name;
   * without a name, that the directory itself has changed. `lost` says that nothing more will be told. Returns
   * what ends it; throws, or is not there, when nothing can be told.
   */
  watch?(
    changed: (directory: string, name: string | undefined) => void,
    lost: () => void,
  ): () => void;
}
