/**
 * Compaction of a VM's checkpoints: gives back the room of memory that none of them needs any more.
 *
 * The addon decides which segments are replaced and writes their replacements; this module publishes. A
 * checkpoint that changes is made anew beside the old one, in checkpoints/.tmp-compact-<id>/: the new
 * memory.map and segments, hard links of every other file, a manifest of the same checkpoint. When all of it
 * is durable the two directories are exchanged, at once (renameat2), and the old one is removed. So at every
 * moment, and after a kill at any, each checkpoint is there whole, as it was or compacted.
 *
 * A VM may run meanwhile, save and restore: nothing that is published changes in place, whoever has files
 * open keeps them, and a save that adopts a base copes with one that is exchanged (base.ts).
 */
import { mkdir, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import createDebug from 'debug';
import { toCkptError } from '../errors.js';
import * as addon from '../native.js';
import type { Compaction, TaskHooks } from '../native.js';
import { type Checkpoint, listCheckpoints, openCheckpoint } from './checkpoints.js';
import { withCompactionLock } from './compact_lock.js';
import { attempt, linkOrCopy, syncPath } from './files.js';
import { draftOf, memoryMapFile, segmentFiles } from './manifest.js';
import { compactionPrefix, newId } from './names.js';
import { sealDirectory } from './publish.js';
import type { Store } from './store.js';

const debug = createDebug('ckptfs:compact');

/** What a compaction of one VM did or would do. */
export interface CompactionSummary {
  vm: string;
  dryRun: boolean;
  /** Names of the checkpoints that changed. */
  checkpoints: string[];
  /** Checkpoints that are damaged: left as they are, with the room that they take. */
  damaged: string[];
  /** Different segments of all checkpoints, and their size. */
  segments: number;
  segmentBytes: number;
  /** Segments that were replaced, and their size; those that replaced them, and theirs. */
  rewritten: number;
  rewrittenBytes: number;
  written: number;
  writtenBytes: number;
}

export interface CompactOptions extends TaskHooks {
  /** Only tell what would be done; `writtenBytes` is then an upper bound. */
  dryRun?: boolean;
}

/** A checkpoint and the directory that it is, whatever name that has meanwhile. */
interface Member extends Checkpoint {
  name: string;
  inode: number;
}

/** Compacts the checkpoints of a VM. BUSY when that is under way already; DAMAGED when something that has
 *  to be copied is damaged: then nothing has changed. */
export async function compactVm(
  store: Store,
  vm: string,
  options: CompactOptions = {},
): Promise<CompactionSummary> {
  return withCompactionLock(store, vm, async () => {
    const { members, damaged } = await readMembers(store, vm);
    const summarize = (done: Compaction, checkpoints: string[]): CompactionSummary => {
      const { segments, segmentBytes, rewritten, rewrittenBytes, written, writtenBytes } = done;
      return {
        ...{ vm, dryRun: options.dryRun === true, checkpoints, damaged, segments, segmentBytes },
        ...{ rewritten, rewrittenBytes, written, writtenBytes },
      };
    };
    if (options.dryRun === true) {
      const plan = await addon.planCompaction(members.map(({ directory }) => directory));
      return summarize(plan, nameChanged(members, plan));
    }
    const targets = members.map(({ directory }) => ({
      directory,
      staging: join(store.checkpointsDirectory(vm), `${compactionPrefix}${newId()}`),
    }));
    const done = await addon.compactCheckpoints(targets, options);
    const published: string[] = [];
    for (const { index, segments } of done.checkpoints) {
      const [member, target] = [members[index], targets[index]];
      if (!member || !target) throw new Error('a compaction of what was not given');
      if (await replace(member, target.staging, new Set(segments))) published.push(member.name);
    }
    debug('compacted %s: %o', vm, done);
    return summarize(done, published);
  });
}

function nameChanged(members: Member[], compaction: Compaction): string[] {
  return compaction.checkpoints.flatMap(({ index }) => members[index]?.name ?? []);
}

/** The checkpoints that can be opened, newest first as in a memory.map, and the names of the others. */
async function readMembers(
  store: Store,
  vm: string,
): Promise<{ members: Member[]; damaged: string[] }> {
  const members: Member[] = [];
  const damaged: string[] = [];
  for (const { name, directory } of (await listCheckpoints(store, vm)).reverse()) {
    try {
      const inode = (await stat(directory)).ino;
      members.push({ ...(await openCheckpoint(directory)), name, inode });
    } catch (error) {
      if (await isGone(directory)) continue;
      debug('%s: %s', directory, toCkptError(error).message);
      damaged.push(name);
    }
  }
  return { members, damaged };
}

async function isGone(directory: string): Promise<boolean> {
  return stat(directory).then(
    () => false,
    () => true,
  );
}

/** Completes `staging` and puts it in the place of the checkpoint; false when that has been removed. */
async function replace(
  member: Member,
  staging: string,
  segments: ReadonlySet<string>,
): Promise<boolean> {
  try {
    await complete(member, staging, segments);
    await addon.exchangeDirectories(staging, member.directory);
  } catch (error) {
    if (await isGone(member.directory)) return false;
    throw error;
  }
  if ((await stat(staging)).ino !== member.inode) {
    // Another checkpoint has got the name since: it gets its place back.
    await addon.exchangeDirectories(staging, member.directory);
    return false;
  }
  await attempt(`cannot make ${member.directory} durable`, () =>
    syncPath(dirname(member.directory)),
  );
  return true;
}

/** Adds to the new memory.map and segments all that has not changed, and the manifest. */
async function complete(
  { directory, manifest }: Member,
  staging: string,
  segments: ReadonlySet<string>,
): Promise<void> {
  const segmentPaths = new Set(segmentFiles(manifest).map(({ path }) => path));
  const old = manifest.files.filter(
    ({ path }) => path !== memoryMapFile && (!segmentPaths.has(path) || segments.has(path)),
  );
  for (const { path } of old) {
    await attempt(`cannot add ${path} to ${staging}`, async () => {
      await mkdir(dirname(join(staging, path)), { recursive: true, mode: 0o700 });
      await linkOrCopy(join(directory, path), join(staging, path));
    });
  }
  await sealDirectory(staging, draftOf(manifest));
  // Opening checks that every file that the new memory.map names is there and is what it says.
  (await addon.openMemoryImage(staging)).close();
}
