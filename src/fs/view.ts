/**
 * What the tree shows, as values: the narrow interface between the mount and whatever keeps VMs and
 * checkpoints (store_view.ts for a store). Nothing here knows paths of the tree.
 */
import type { ByteSource } from '../native.js';
import type { StoredPath } from './stored.js';

/** A file whose bytes a source makes. */
export interface SourceFile {
  /** Known without opening it. */
  bytes: number;
  open(): Promise<ByteSource>;
}

export interface CheckpointView {
  name: string;
  id: string;
  /** Id of the checkpoint that this one continues. */
  parentId?: string;
  /** Checksum of the manifest, and so of all that it names. */
  checksum: string;
  createdAt: Date;
  /** The checkpoint as stored. */
  directory: string;
  manifest: SourceFile;
  deviceState: SourceFile;
  memory: SourceFile;
  disks: ReadonlyMap<string, SourceFile>;
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
  /** Undefined when there is none of that name; rejects with DAMAGED when its manifest is damaged. */
  checkpoint(name: string): Promise<CheckpointView | undefined>;
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
}
