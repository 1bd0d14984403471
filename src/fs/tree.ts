/**
 * The tree of a mount: finds nodes by path, numbers them, lists them (docs/fs-tree.md). Made from a
 * StoreView; keeps nothing of it but open sources and inode numbers, so every look sees the store as it is.
 * Paths come from the kernel and names from the store: both are bounded before use.
 */
import { statfs } from 'node:fs/promises';
import { byTime, latest } from './aliases.js';
import { FixedDirectory, ListedDirectory } from './directory.js';
import { FsError } from './errno.js';
import { InodeTable, rootInode } from './inode.js';
import { FsNode, type Attributes, type Entry, type NodeKind } from './node.js';
import { SharedSources, SourceNode } from './source.js';
import { StoredDirectory, storedNode, storedTree, type StoredPath } from './stored.js';
import { ValueNode } from './value.js';
import type { CheckpointView, SavingView, SourceFile, StoreView, VmView } from './view.js';

/** vms/<vm>/checkpoints/<name>/image/ is 5 deep; a checkpoint directory holds disks/<id>/<n>.redo. */
const maxDepth = 16;
export const maxNameBytes = 255;
const maxEntries = 100_000;

const modeOf: Record<NodeKind, number> = {
  directory: 0o040555,
  file: 0o100444,
  symlink: 0o120777,
};

export interface NodeStat extends Attributes {
  kind: NodeKind;
  /** File type and permissions, as st_mode. */
  mode: number;
  inode: number;
}

export interface ListedEntry {
  name: string;
  mode: number;
  inode: number;
}

/** What df shows: the filesystem that the store lies in, in units of `blockBytes`. */
export interface Capacity {
  blockBytes: number;
  blocks: number;
  free: number;
  available: number;
  files: number;
  filesFree: number;
}

export class Tree {
  readonly sources = new SharedSources();
  readonly #inodes = new InodeTable();
  readonly #root: FsNode;
  readonly #mountedMs = Date.now();

  constructor(readonly view: StoreView) {
    this.#root = new FixedDirectory(this.#mountedMs, [
      ['vms', this.#vms()],
      ['by-time', byTime(view, this.#mountedMs)],
    ]);
  }

  /** The node at an absolute path of the tree. ENOENT, ENOTDIR, ENAMETOOLONG. */
  async node(path: string): Promise<FsNode> {
    let node = this.#root;
    for (const name of components(path)) {
      const child = await node.child(name);
      if (child === undefined) throw new FsError('ENOENT');
      node = child;
    }
    return node;
  }

  async stat(path: string): Promise<NodeStat> {
    const node = await this.node(path);
    const attributes = await node.attributes();
    const identity = node.identity ?? components(path).join('/');
    return {
      ...attributes,
      kind: node.kind,
      mode: modeOf[node.kind],
      inode: this.#inodes.of(identity),
    };
  }

  /** A directory's entries sorted by name, "." and ".." first. */
  async list(path: string): Promise<ListedEntry[]> {
    const parts = components(path);
    const entries = (await (await this.node(path)).list()).filter(({ name }) => isFileName(name));
    if (entries.length > maxEntries) {
      throw new FsError('EIO', `more than ${maxEntries} entries in one directory`);
    }
    entries.sort((a, b) => (a.name < b.name ? -1 : 1));
    const number = (of: readonly string[], entry?: Entry): ListedEntry['inode'] =>
      this.#inodes.of(entry?.identity ?? of.join('/'));
    const directory = modeOf.directory;
    return [
      { name: '.', mode: directory, inode: number(parts) },
      {
        name: '..',
        mode: directory,
        inode: parts.length === 0 ? rootInode : number(parts.slice(0, -1)),
      },
      ...entries.map((entry) => ({
        name: entry.name,
        mode: modeOf[entry.kind],
        inode: number([...parts, entry.name], entry),
      })),
    ];
  }

  async capacity(): Promise<Capacity> {
    const { bsize, blocks, bfree, bavail, files, ffree } = await statfs(this.view.root);
    return {
      blockBytes: bsize,
      blocks,
      free: bfree,
      available: bavail,
      files,
      filesFree: ffree,
    };
  }

  #vms(): FsNode {
    return new ListedDirectory(
      this.#mountedMs,
      async () => (await this.view.vmNames()).map((name) => ({ name, kind: 'directory' })),
      async (name) => {
        const vm = await this.view.vm(name);
        return vm && this.#vm(name, vm);
      },
    );
  }

  async #vm(name: string, vm: VmView): Promise<FsNode> {
    const timeMs = vm.createdAt.getTime();
    const nodes: [string, FsNode][] = [['status.json', new ValueNode(() => vm.status())]];
    for (const file of vm.files) {
      const node = await storedNode(file.path);
      if (node !== undefined) nodes.push([file.name, node]);
    }
    if (vm.live !== undefined) {
      nodes.push(['memory', this.#source(`live:${name}:memory`, vm.live.memory, Date.now)]);
      nodes.push(['disks', this.#disks(`live:${name}`, vm.live.disks, timeMs, Date.now)]);
    }
    nodes.push(['layers', this.#layers(vm, timeMs)]);
    nodes.push(['checkpoints', this.#checkpoints(vm, timeMs)]);
    return new FixedDirectory(timeMs, nodes);
  }

  #layers(vm: VmView, timeMs: number): FsNode {
    const directory = (files: readonly StoredPath[]) =>
      new StoredDirectory(timeMs, () => Promise.resolve([...files]));
    return new ListedDirectory(
      timeMs,
      async () => [...(await vm.layers()).keys()].map((name) => ({ name, kind: 'directory' })),
      async (disk) => {
        const files = (await vm.layers()).get(disk);
        return files && directory(files);
      },
    );
  }

  #checkpoints(vm: VmView, timeMs: number): FsNode {
    return new ListedDirectory(
      timeMs,
      async () => {
        // Asked for first: whatever is published meanwhile is among the names.
        const saving = vm.live?.saving();
        const names = new Set(await vm.checkpointNames());
        if (saving) names.add(saving.name);
        const entries: Entry[] = [...names].map((name) => ({ name, kind: 'directory' }));
        if ((await latest(vm)) !== undefined) entries.push({ name: 'latest', kind: 'symlink' });
        return entries;
      },
      async (name) => {
        if (name === 'latest') return latest(vm);
        const saving = vm.live?.saving();
        const checkpoint = await vm.checkpoint(name);
        if (checkpoint) return this.#checkpoint(checkpoint);
        return saving?.name === name ? this.#saving(saving) : undefined;
      },
    );
  }

  /** The key of its memory is that of the published checkpoint: whoever has it open keeps it. */
  #saving({ id, begunAt, memory }: SavingView): FsNode {
    const timeMs = begunAt.getTime();
    const node = this.#source(`${id}:memory`, memory, () => timeMs);
    return new FixedDirectory(timeMs, [['memory', node]], new Map([['user.ckptfs.id', id]]));
  }

  #checkpoint(checkpoint: CheckpointView): FsNode {
    const timeMs = checkpoint.createdAt.getTime();
    const file = (name: string, source: SourceFile): [string, FsNode] => [
      name,
      this.#source(`${checkpoint.id}:${name}`, source, () => timeMs),
    ];
    const extended = new Map([
      ['user.ckptfs.id', checkpoint.id],
      ['user.ckptfs.checksum', checkpoint.checksum],
    ]);
    if (checkpoint.parentId !== undefined) extended.set('user.ckptfs.parent', checkpoint.parentId);
    return new FixedDirectory(
      timeMs,
      [
        file('manifest.json', checkpoint.manifest),
        file('device-state.json', checkpoint.deviceState),
        file('memory', checkpoint.memory),
        ['disks', this.#disks(checkpoint.id, checkpoint.disks, timeMs, () => timeMs)],
        ['image', storedTree(checkpoint.directory, timeMs)],
      ],
      extended,
    );
  }

  #disks(
    key: string,
    disks: ReadonlyMap<string, SourceFile>,
    timeMs: number,
    fileTimeMs: () => number,
  ): FsNode {
    return new FixedDirectory(
      timeMs,
      [...disks].map(([id, disk]) => [id, this.#source(`${key}:disks/${id}`, disk, fileTimeMs)]),
    );
  }

  #source(key: string, file: SourceFile, timeMs: () => number): FsNode {
    return new SourceNode(this.sources, key, file.bytes, timeMs, () => file.open());
  }
}

function isFileName(name: string): boolean {
  return (
    name !== '' &&
    name !== '.' &&
    name !== '..' &&
    !/[/\0]/.test(name) &&
    Buffer.byteLength(name) <= maxNameBytes
  );
}

/** The names of an absolute path of the tree; none for the root. */
function components(path: string): string[] {
  const names = path.split('/').filter((name) => name !== '');
  if (names.length > maxDepth) throw new FsError('ENOENT');
  if (names.some((name) => Buffer.byteLength(name) > maxNameBytes))
    throw new FsError('ENAMETOOLONG');
  return names;
}
