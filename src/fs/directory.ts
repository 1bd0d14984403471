/** Directories of the tree: one whose nodes are known, and one that asks for them. No state of their own. */
import { FsNode, type Attributes, type Caching, type Entry } from './node.js';

abstract class Directory extends FsNode {
  readonly kind = 'directory';
  override readonly caching: Caching = 'kept'; // StoreView.watch() tells of changes

  constructor(
    readonly timeMs: number,
    override readonly key?: string,
    readonly extended: ReadonlyMap<string, string> = new Map(),
  ) {
    super();
  }

  override xattrs(): ReadonlyMap<string, string> {
    return this.extended;
  }

  /** nlink 1 says "not counted" (as in Btrfs): counting subdirectories would list them at every stat. */
  override attributes(): Promise<Attributes> {
    return Promise.resolve({ bytes: 0, blocks: 0, nlink: 1, timeMs: this.timeMs });
  }
}

/** A directory with these nodes. */
export class FixedDirectory extends Directory {
  readonly #nodes: ReadonlyMap<string, FsNode>;

  constructor(
    timeMs: number,
    nodes: Iterable<readonly [string, FsNode]>,
    key?: string,
    extended?: ReadonlyMap<string, string>,
  ) {
    super(timeMs, key, extended);
    this.#nodes = new Map(nodes);
  }

  override list(): Promise<Entry[]> {
    return Promise.resolve(
      [...this.#nodes].map(([name, { kind, identity }]) => ({ name, kind, identity })),
    );
  }

  override child(name: string): Promise<FsNode | undefined> {
    return Promise.resolve(this.#nodes.get(name));
  }
}

/** A directory that may go without anybody telling of it. */
export class PassingDirectory extends FixedDirectory {
  override readonly caching = 'none';
}

/** A directory that is known to be there, and what is in it asked for when somebody looks. */
export class DeferredDirectory extends Directory {
  constructor(
    timeMs: number,
    readonly load: () => Promise<FsNode>,
    key: string | undefined,
    extended: ReadonlyMap<string, string>,
  ) {
    super(timeMs, key, extended);
  }

  override async list(): Promise<Entry[]> {
    return (await this.load()).list();
  }

  override async child(name: string): Promise<FsNode | undefined> {
    return (await this.load()).child(name);
  }
}

/** What makes and removes the directories in a directory. */
export interface Changes {
  make(name: string): Promise<void>;
  remove(name: string): Promise<void>;
}

/** A directory whose names and nodes are asked for each time; with `changes` they come and go by mkdir and rmdir. */
export class ListedDirectory extends Directory {
  override readonly writable: boolean;

  constructor(
    timeMs: number,
    readonly listEntries: () => Promise<Entry[]>,
    readonly findChild: (name: string) => Promise<FsNode | undefined>,
    readonly changes?: Changes,
  ) {
    super(timeMs);
    this.writable = changes !== undefined;
  }

  override makeDirectory(name: string): Promise<void> {
    return this.changes?.make(name) ?? super.makeDirectory(name);
  }

  override removeDirectory(name: string): Promise<void> {
    return this.changes?.remove(name) ?? super.removeDirectory(name);
  }

  override list(): Promise<Entry[]> {
    return this.listEntries();
  }

  override child(name: string): Promise<FsNode | undefined> {
    return this.findChild(name);
  }
}
