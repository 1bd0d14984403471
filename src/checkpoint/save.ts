/**
 * Saving a checkpoint: the order of requirement A, with the store around it.
 *
 * The addon does what the guest can feel (pause, traces, segments, memory.map); this module makes the
 * directory, links the base of an incremental one into it (base.ts), adds the disks' sealed redo logs and the
 * device state, and publishes. On any failure the store
 * is as before; the guest goes on, with its writes in the new redo logs if the switch had happened.
 */
import { basename, join } from 'node:path';
import { CkptError } from '../errors.js';
import { fileIdentity, type NativeMachine, type SaveProgress, type SaveResult } from '../native.js';
import type { CheckpointSummary, GroupStep, VmConfig } from '../types.js';
import { adoptBase, settleSegments } from './base.js';
import { freeTimeName } from './checkpoints.js';
import { copyDisk } from './disk_copy.js';
import { ownParentName } from './disk_names.js';
import type { Manifest, ManifestDraft } from './manifest.js';
import { Publication } from './publish.js';
import type { CompleteRequest } from './request.js';
import type { Store } from './store.js';

const progressIntervalMs = 100;

export interface SaveContext {
  store: Store;
  config: VmConfig;
  machine: Pick<NativeMachine, 'save' | 'proceedSave' | 'saveProgress' | 'cancelSave' | 'status'>;
  /** Path for the redo log that takes a disk's writes from the pause on. */
  nextRedo(disk: string): Promise<string>;
}

export interface SaveHooks {
  /** The pause is over, or the guest is suspended; the save goes on. */
  onResumed?: (summary: CheckpointSummary) => void;
  onProgress?: (progress: SaveProgress) => void;
  /** Of a group: it has come to a step, and waits there. */
  onStep?: (step: GroupStep) => void;
  /** Of a group, once it has come to `saved`: resolves when it may be published, rejects when it may not. */
  mayPublish?: () => Promise<void>;
  signal?: AbortSignal;
  /** Keeps a copy of RAM from the pause in the addon, for tests. */
  oracle?: boolean;
}

/** Takes and publishes a checkpoint. Rejects with the store as before. */
export async function saveCheckpoint(
  context: SaveContext,
  request: CompleteRequest,
  hooks: SaveHooks = {},
): Promise<CheckpointSummary> {
  const { store, config, machine } = context;
  const createdAt = new Date();
  const name = request.name ?? (await freeTimeName(store, config.name, createdAt));
  const publication = await Publication.begin(store, config.name, name);
  const { group } = request;
  const known = {
    vm: config.name,
    id: publication.id,
    name,
    memoryBytes: config.memoryBytes,
    ...(group === undefined ? {} : { group: group.id }),
  };
  const cancel = (): void => machine.cancelSave();
  const timer = setInterval(() => {
    const progress = machine.saveProgress();
    if (progress) hooks.onProgress?.(progress);
    // An abort may come before the addon's thread has a save to cancel: it is told until the save has ended.
    if (hooks.signal?.aborted) cancel();
  }, progressIntervalMs);
  try {
    const redo = [];
    for (const disk of config.disks) {
      if (!disk.readonly) redo.push({ disk: disk.id, path: await context.nextRedo(disk.id) });
    }
    const { trackedId } = machine.status();
    const base =
      request.full || trackedId === undefined
        ? undefined
        : await adoptBase(store, publication, trackedId);
    refuseCancelled(hooks);
    hooks.signal?.addEventListener('abort', cancel);
    const result = await machine.save(
      {
        id: publication.id,
        directory: publication.directory,
        codec: request.codec,
        ...(base === undefined ? {} : { base }),
        suspend: request.suspend,
        drain: request.drain,
        ...(request.limitBytesPerSecond === undefined
          ? {}
          : { limitBytesPerSecond: request.limitBytesPerSecond }),
        redo,
        ...(group === undefined ? {} : { holdLimitMs: group.holdLimitMs }),
        oracle: hooks.oracle ?? false,
      },
      (pauseUs) => hooks.onResumed?.({ ...known, state: 'saving', pauseUs }),
      hooks.onStep,
    );
    refuseCancelled(hooks); // the abort may have come as the addon was done
    await settleSegments(publication, result.segments);
    const parentId = result.incremental && base !== undefined ? base.id : null;
    const manifest = await publish(store, publication, config, {
      createdAt: createdAt.toISOString(),
      parentId,
      ...(group === undefined ? {} : { group: { id: group.id, vms: group.vms } }),
      codec: request.codec,
      result,
      copyDisks: request.copyDisks,
      signal: hooks.signal,
      mayPublish: async () => {
        if (group === undefined) return;
        hooks.onStep?.('saved');
        await hooks.mayPublish?.();
      },
    });
    return {
      ...known,
      state: 'published',
      pauseUs: result.pauseUs,
      totalMs: manifest.stats.totalUs / 1000,
      storedBytes: result.storedBytes,
      parentId,
      blocks: result.blocks,
      faults: result.faults,
    };
  } catch (error) {
    await publication.abandon();
    throw error;
  } finally {
    clearInterval(timer);
    hooks.signal?.removeEventListener('abort', cancel);
  }
}

function refuseCancelled(hooks: SaveHooks): void {
  if (hooks.signal?.aborted) throw new CkptError('CANCELLED', 'the checkpoint was cancelled');
}

async function publish(
  store: Store,
  publication: Publication,
  config: VmConfig,
  {
    result,
    ...known
  }: Pick<ManifestDraft, 'createdAt' | 'parentId' | 'group' | 'codec'> & {
    result: SaveResult;
    copyDisks: boolean;
    signal: AbortSignal | undefined;
    mayPublish: () => Promise<void>;
  },
): Promise<Manifest> {
  await publication.write('device-state.json', result.deviceState);
  const disks: ManifestDraft['disks'] = [];
  for (const disk of result.disks) {
    const redo: string[] = [];
    for (const source of disk.redo) {
      const path = `disks/${disk.id}/${basename(source.path)}`;
      await publication.link(source.path, path);
      redo.push(path);
    }
    // A parent of the VM's own, which a commit has made, belongs to the checkpoint too.
    const own = disk.parent.startsWith(`${store.diskDirectory(config.name, disk.id)}/`);
    const inside = `disks/${disk.id}/${own ? basename(disk.parent) : ownParentName(0)}`;
    const copy = !own && known.copyDisks;
    if (own) await publication.link(disk.parent, inside);
    // Nothing writes to it any more: the redo logs over it have taken that over.
    if (copy) await copyDisk(disk.parent, await publication.place(inside), known);
    disks.push({
      id: disk.id,
      access: disk.access,
      parent: own || copy ? inside : disk.parent,
      parentIdentity: copy
        ? fileIdentity(join(publication.directory, inside))
        : disk.parentIdentity,
      ...(disk.committed === undefined ? {} : { committed: disk.committed }),
      redo,
    });
  }
  const draft: ManifestDraft = {
    id: publication.id,
    name: publication.name,
    vm: publication.vm,
    createdAt: known.createdAt,
    parentId: known.parentId,
    ...(known.group === undefined ? {} : { group: known.group }),
    geometry: config.geometry,
    memoryBytes: config.memoryBytes,
    codec: known.codec,
    cpus: config.cpus,
    guestTicks: result.guestTicks,
    config: { ...config },
    disks,
    stats: {
      pauseUs: result.pauseUs,
      phasesUs: result.phasesUs,
      totalUs: result.totalUs,
      storedBytes: result.storedBytes,
      blocks: result.blocks,
      faults: result.faults,
    },
  };
  return publication.commit(draft, known.mayPublish);
}
