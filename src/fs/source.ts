/**
 * A file whose bytes a source makes: RAM or a disk, of a checkpoint or now. Its size is known without
 * opening it. All handles of one file share one source, opened by the first and closed after the last.
 */
import type { ByteSource } from '../native.js';
import { blocksOf, FsNode, type Attributes, type Caching, type OpenFile } from './node.js';
import type { SourceFile } from './view.js';

interface Shared {
  source: Promise<ByteSource>;
  users: number;
}

/** The open sources by key. Owned by the tree. */
export class SharedSources {
  readonly #open = new Map<string, Shared>();

  /** The number of open sources. */
  get size(): number {
    return this.#open.size;
  }

  /** Opens by `open` unless a source of that key is open already. */
  async acquire(key: string, open: () => Promise<ByteSource>): Promise<OpenFile> {
    let shared = this.#open.get(key);
    if (shared === undefined) {
      shared = { source: open(), users: 0 };
      this.#open.set(key, shared);
    }
    shared.users++;
    const entry = shared;
    try {
      const source = await entry.source;
      let held = true;
      const release = () => {
        if (held) this.#leave(key, entry, source);
        held = false;
      };
      return { source, release };
    } catch (error) {
      this.#leave(key, entry);
      throw error;
    }
  }

  /** The source that is open under that key, or about to be. */
  async find(key: string): Promise<ByteSource | undefined> {
    return this.#open.get(key)?.source.catch(() => undefined);
  }

  #leave(key: string, entry: Shared, source?: ByteSource): void {
    if (--entry.users > 0) return;
    // Only this entry can be under the key: it leaves the map with its last user.
    this.#open.delete(key);
    source?.close();
  }
}

export class SourceNode extends FsNode {
  readonly kind = 'file';

  /** `key` identifies the contents among all sources. */
  constructor(
    readonly sources: SharedSources,
    override readonly key: string,
    readonly file: SourceFile,
    readonly timeMs: () => number,
    override readonly caching: Caching = 'kept',
  ) {
    super();
  }

  override async attributes(): Promise<Attributes> {
    const { bytes } = this.file;
    // What is damaged has a size all the same; whoever reads it is told.
    const data = (await this.file.dataBytes?.().catch(() => bytes)) ?? bytes;
    return { bytes, blocks: blocksOf(Math.min(data, bytes)), nlink: 1, timeMs: this.timeMs() };
  }

  override open(): Promise<OpenFile> {
    return this.sources.acquire(this.key, () => this.file.open());
  }
}
