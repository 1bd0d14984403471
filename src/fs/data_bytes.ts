/** How much of the files of checkpoints is data and no hole: looked for once, as it does not change. */
import { stat } from 'node:fs/promises';
import type { DiskLayers } from '../native.js';

/** Some 100 bytes each. */
const maxEntries = 10_000;

export class DataBytes {
  readonly #known = new Map<string, Promise<number>>();

  /** What `look` found for the key; a failure is not kept. */
  async bytes(key: string, look: () => Promise<number>): Promise<number> {
    let found = this.#known.get(key);
    if (found === undefined) {
      if (this.#known.size >= maxEntries) this.#known.clear();
      found = look();
      this.#known.set(key, found);
    }
    try {
      return await found;
    } catch (error) {
      this.#known.delete(key);
      throw error;
    }
  }
}

/**
 * What the files of a disk hold: what one layer has over another counts twice, but no index is read for it.
 */
export async function filesDataBytes({ parent, redo }: DiskLayers): Promise<number> {
  const files = [parent, ...redo.map(({ path }) => path)];
  const blocks = await Promise.all(files.map(async (path) => (await stat(path)).blocks));
  return blocks.reduce((sum, each) => sum + each, 0) * 512;
}
