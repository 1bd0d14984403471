/**
 * What the manifests of a store say of themselves, for listings of thousands of checkpoints: their ends alone are read,
 * and not checked, which takes ten times as long. Whoever looks into a checkpoint gets its manifest checked.
 *
 * A checkpoint never changes, so a listing holds for as long as the directory of the checkpoints is the same. Owned by
 * the view of a store.
 */
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { namesIn } from '../checkpoint/files.js';
import { manifestFile, outlineEnds, outlineOf } from '../checkpoint/manifest.js';
import { isName } from '../checkpoint/names.js';
import { errnoOf } from '../errors.js';
import { readFileEnds } from '../native.js';
import type { CheckpointOutline } from './view.js';

/** A directory that changes twice within a tick of its clock has one time for both. */
const tickMs = 2000;

interface Listing {
  changed: bigint;
  outlines: readonly CheckpointOutline[];
}

export class CheckpointIndex {
  readonly #listings = new Map<string, Listing>();

  /** Of the checkpoint in `directory`; undefined when there is none. */
  async find(directory: string, name: string): Promise<CheckpointOutline | undefined> {
    return (await outlinesOf(directory, [name]))[0];
  }

  /** All in a directory of checkpoints that say who they are, oldest first. */
  async list(directory: string): Promise<readonly CheckpointOutline[]> {
    const begunMs = Date.now();
    const changed = await changeTime(directory);
    const listing = this.#listings.get(directory);
    if (listing?.changed === changed) return listing.outlines;
    const names = (await namesIn(directory)).filter(isName);
    const outlines = (await outlinesOf(directory, names)).filter(({ id }) => id !== undefined);
    outlines.sort(
      (a, b) => a.createdAt.getTime() - b.createdAt.getTime() || (a.name < b.name ? -1 : 1),
    );
    if (Number(changed / 1_000_000n) + tickMs < begunMs) {
      this.#listings.set(directory, { changed, outlines });
    }
    return outlines;
  }
}

/** Of those names that are checkpoints. */
async function outlinesOf(
  directory: string,
  names: readonly string[],
): Promise<CheckpointOutline[]> {
  const paths = names.map((name) => join(directory, name, manifestFile));
  const all = await readFileEnds(paths, outlineEnds);
  return all.flatMap((ends, i) => {
    const name = names[i];
    if (ends === undefined || name === undefined) return [];
    return [{ name, createdAt: ends.modifiedAt, ...outlineOf(ends.text) }];
  });
}

/** In ns; -1 when the directory is not there. */
async function changeTime(directory: string): Promise<bigint> {
  try {
    return (await stat(directory, { bigint: true })).mtimeNs;
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return -1n;
    throw error;
  }
}
