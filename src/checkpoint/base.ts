/**
 * The base of an incremental checkpoint (requirement F4): the earlier one that memory is tracked against.
 *
 * Before the save the unpublished directory gets hard links of all that the base has of memory: its segments
 * by their names, and in base/ its memory.map with them. So nobody who removes or compacts the base meanwhile
 * can take anything away. After the save base/ goes again, and so do the links that the new memory.map does
 * not name.
 *
 * The map is linked before the segments: should the base be compacted in between, a segment is missing then,
 * and the save is a full one. It is full whenever there is no base to be had; that is never an error.
 */
import { link, mkdir, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import createDebug from 'debug';
import { toCkptError } from '../errors.js';
import { checkpointsById, openCheckpoint } from './checkpoints.js';
import { attempt } from './files.js';
import { deviceStateFile, memoryMapFile, segmentFiles } from './manifest.js';
import type { Publication } from './publish.js';
import type { Store } from './store.js';

const debug = createDebug('ckptfs:save');
const baseDirectory = 'base';

/** A base as the addon takes it: its id, and the directory that holds all of its memory. */
export interface Base {
  id: string;
  directory: string;
}

/** Links checkpoint `id` of the store into the publication; undefined when it cannot be a base. */
export async function adoptBase(
  store: Store,
  publication: Publication,
  id: string,
): Promise<Base | undefined> {
  for (const entry of await checkpointsById(store, id, publication.vm)) {
    try {
      const { manifest } = await openCheckpoint(entry.directory);
      const directory = join(publication.directory, baseDirectory);
      await mkdir(directory, { mode: 0o700 });
      await link(join(entry.directory, memoryMapFile), join(directory, memoryMapFile));
      for (const { path } of segmentFiles(manifest)) {
        for (const into of [directory, publication.directory]) {
          await link(join(entry.directory, path), join(into, path));
        }
      }
      return { id, directory };
    } catch (error) {
      const { code, message } = toCkptError(error);
      if (code === 'INTERNAL') throw error;
      debug('%s cannot be a base: %s', entry.directory, message);
      await settleSegments(publication, []);
    }
  }
  return undefined;
}

/** Leaves of memory's files only memory.map and the segments that it names; these must be there. */
export async function settleSegments(
  publication: Publication,
  segments: readonly string[],
): Promise<void> {
  const keep = new Set([...segments, memoryMapFile, deviceStateFile]);
  await attempt(`cannot write ${publication.directory}`, async () => {
    const entries = await readdir(publication.directory, { withFileTypes: true });
    for (const entry of entries) {
      const isLeftover = entry.isFile() ? !keep.has(entry.name) : entry.name === baseDirectory;
      if (isLeftover) await rm(join(publication.directory, entry.name), { recursive: true });
    }
    const there = new Set(entries.map((entry) => entry.name));
    const missing = segments.filter((segment) => !there.has(segment));
    if (missing.length > 0) throw new Error(`memory.map names ${missing.join(', ')}, not there`);
  });
}
