/** Directories of the tree: one whose nodes are known, and one that asks for them. No state of their own. */
import { FsNode, type Attributes, type Entry } from './node.js';

abstract class Directory extends FsNode {
  readonly kind = 'directory';

  constructor(
    readonly timeMs: number,
    readonly extended: ReadonlyMap<string, string> = new Map(),
  ) {
    super();
  }

  /** nlink 1 says "not counted" (as in Btrfs): counting subdirectories would list them at every stat. */
  override attributes(): Promise<Attributes> {
    return Promise.resolve({ bytes: 0, blocks: 0, nlink: 1, timeMs: this.timeMs });
  }

  override xattrs(): ReadonlyMap<string, string> {
    return this.extended;
  }
}

/** A directory with these nodes. */
export class FixedDirectory extends Directory {
  readonly #nodes: ReadonlyMap<string, FsNode>;

  constructor(
    timeMs: number,
    nodes: Iterable<readonly [string, FsNode]>,
    extended?: ReadonlyMap<string, string>,
  ) {
    super(timeMs, extended);
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

/** A directory whose names and nodes are asked for each time. */
export class ListedDirectory extends Directory {
  constructor(
    timeMs: number,
    readonly listEntries: () => Promise<Entry[]>,
    readonly findChild: (name: string) => Promise<FsNode | undefined>,
  ) {
    super(timeMs);
  }

  override list(): Promise<Entry[]> {
    return this.listEntries();
  }

  override child(name: string): Promise<FsNode | undefined> {
    return this.findChild(name);
  }
}
