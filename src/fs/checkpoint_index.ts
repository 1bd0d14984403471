/**
 * What the manifests of a store say of themselves, for listings of thousands of checkpoints: read as text, and
 * not checked, which takes ten times as long. Whoever looks into a checkpoint gets its manifest checked.
 *
 * A checkpoint never changes, so what is known of a manifest holds for as long as its file is the same; and a
 * listing for as long as the directory of the checkpoints is. Owned by the view of a store.
 */
import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { namesIn } from '../checkpoint/files.js';
import { manifestFile, outlineOf } from '../checkpoint/manifest.js';
import { isName } from '../checkpoint/names.js';
import { errnoOf } from '../errors.js';
import type { CheckpointOutline } from './view.js';

/** Some 300 bytes each. */
const maxEntries = 100_000;
/** As many as the pool of threads can have waiting. */
const together = 32;
/** A directory that changes twice within a tick of its clock has one time for both. */
const tickMs = 2000;

interface Known {
  /** Inode, size and change time of the manifest. */
  file: string;
  outline: CheckpointOutline;
}

interface Listing {
  changed: bigint;
  outlines: readonly CheckpointOutline[];
}

export class CheckpointIndex {
  readonly #known = new Map<string, Known>();
  readonly #listings = new Map<string, Listing>();

  /** Of the checkpoint in `directory`; undefined when there is none. */
  async find(directory: string, name: string): Promise<CheckpointOutline | undefined> {
    try {
      const path = join(directory, name);
      const { ino, size, ctimeMs, mtime } = await stat(join(path, manifestFile));
      const file = `${ino}:${size}:${ctimeMs}`;
      const known = this.#known.get(path);
      if (known?.file === file) return known.outline;
      const said = outlineOf(await readFile(join(path, manifestFile), 'utf8'));
      const outline = { name, createdAt: mtime, ...said };
      if (this.#known.size >= maxEntries) this.#known.clear();
      this.#known.set(path, { file, outline });
      return outline;
    } catch (error) {
      if (['ENOENT', 'ENOTDIR'].includes(errnoOf(error) ?? '')) return undefined;
      throw error;
    }
  }

  /** All in a directory of checkpoints that say who they are, oldest first. */
  async list(directory: string): Promise<readonly CheckpointOutline[]> {
    const begunMs = Date.now();
    const changed = await changeTime(directory);
    const listing = this.#listings.get(directory);
    if (listing?.changed === changed) return listing.outlines;
    const names = (await namesIn(directory)).filter(isName);
    const outlines: CheckpointOutline[] = [];
    for (let at = 0; at < names.length; at += together) {
      const some = names.slice(at, at + together).map((name) => this.find(directory, name));
      for (const outline of await Promise.all(some)) {
        if (outline?.id !== undefined) outlines.push(outline);
      }
    }
    outlines.sort(
      (a, b) => a.createdAt.getTime() - b.createdAt.getTime() || (a.name < b.name ? -1 : 1),
    );
    if (Number(changed / 1_000_000n) + tickMs < begunMs) {
      this.#listings.set(directory, { changed, outlines });
    }
    return outlines;
  }
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
