/**
 * Inode numbers that are the same in every mount of the same tree: a hash of what identifies the file
 * (its path, or device and inode of a stored file, so that hard links stay hard links).
 *
 * Numbers have 32 bits, all that the fuse-native binding passes on. Two of n files collide with
 * probability n²/2³³ (1 % at 10,000 files); the later one seen is hashed again with the next salt, so
 * numbers in use are always distinct. 0 means "none" to readdir and 1 is the root, so neither is a hash.
 */
import { createHash } from 'node:crypto';

export const rootInode = 1;
/** Some 100 MB of strings. Past it the table starts anew: only the outcomes of collisions may change. */
const maxEntries = 1_000_000;

/** The 32-bit hash of an identity; `salt` counts collisions. */
export type InodeHash = (identity: string, salt: number) => number;

const sha256Hash: InodeHash = (identity, salt) =>
  createHash('sha256').update(`${salt}:${identity}`).digest().readUInt32LE(0);

export class InodeTable {
  readonly #numbers = new Map<string, number>();
  readonly #taken = new Set<number>();

  constructor(readonly hash: InodeHash = sha256Hash) {}

  /** The number of `identity`; the empty identity is the root. */
  of(identity: string): number {
    if (identity === '') return rootInode;
    const known = this.#numbers.get(identity);
    if (known !== undefined) return known;
    if (this.#numbers.size >= maxEntries) {
      this.#numbers.clear();
      this.#taken.clear();
    }
    for (let salt = 0; ; salt++) {
      const number = this.hash(identity, salt);
      if (number <= rootInode || this.#taken.has(number)) continue;
      this.#taken.add(number);
      this.#numbers.set(identity, number);
      return number;
    }
  }
}
