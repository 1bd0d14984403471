/**
 * Saving a checkpoint: the order of requirement A, with the store around it.
 *
 * The addon does what the guest can feel (pause, traces, segments, memory.map); this module makes the
 * directory, links the base of an incremental one into it (base.ts), adds the disks' sealed redo logs and the
 * device state, and publishes. On any failure the store
 * is as before; the guest goes on, with its writes in the new redo logs if the switch had happened.
 */
import { basename } from 'node:path';
import { CkptError } from '../errors.js';
import type { NativeMachine, SaveProgress, SaveResult } from '../native.js';
import type { CheckpointSummary, VmConfig } from '../types.js';
import { adoptBase, settleSegments } from './base.js';
import { freeTimeName } from './checkpoints.js';
import type { Manifest, ManifestDraft } from './manifest.js';
import { Publication } from './publish.js';
import type { CompleteRequest } from './request.js';
import type { Store } from './store.js';

const progressIntervalMs = 100;

export interface SaveContext {
  store: Store;
  config: VmConfig;
  machine: Pick<NativeMachine, 'save' | 'saveProgress' | 'cancelSave' | 'status'>;
  /** Path for the redo log that takes a disk's writes from the pause on. */
  nextRedo(disk: string): Promise<string>;
}

export interface SaveHooks {
  /** The pause is over, or the guest is suspended; the save goes on. */
  onResumed?: (summary: CheckpointSummary) => void;
  onProgress?: (progress: SaveProgress) => void;
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
  const known = { vm: config.name, id: publication.id, name, memoryBytes: config.memoryBytes };
  const cancel = (): void => machine.cancelSave();
  const timer = setInterval(() => {
    const progress = machine.saveProgress();
    if (progress) hooks.onProgress?.(progress);
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
        oracle: hooks.oracle ?? false,
      },
      (pauseUs) => hooks.onResumed?.({ ...known, state: 'saving', pauseUs }),
    );
    refuseCancelled(hooks); // the abort may have come before the addon had a save to cancel
    await settleSegments(publication, result.segments);
    const parentId = result.incremental && base !== undefined ? base.id : null;
    const manifest = await publish(publication, config, {
      createdAt: createdAt.toISOString(),
      parentId,
      codec: request.codec,
      result,
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
  publication: Publication,
  config: VmConfig,
  {
    result,
    ...known
  }: Pick<ManifestDraft, 'createdAt' | 'parentId' | 'codec'> & { result: SaveResult },
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
    disks.push({
      id: disk.id,
      access: disk.access,
      parent: disk.parent,
      parentIdentity: disk.parentIdentity,
      redo,
    });
  }
  return publication.commit({
    id: publication.id,
    name: publication.name,
    vm: publication.vm,
    createdAt: known.createdAt,
    parentId: known.parentId,
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
  });
}
