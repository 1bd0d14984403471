/**
 * The tree of a mount: finds nodes by path, numbers them, lists them (docs/fs-tree.md). Made from a
 * StoreView; keeps nothing of it but open sources and inode numbers, so every look sees the store as it is.
 * Paths come from the kernel and names from the store: both are bounded before use.
 */
import { statfs } from 'node:fs/promises';
import { byTime, latest } from './aliases.js';
import {
  DeferredDirectory,
  FixedDirectory,
  ListedDirectory,
  PassingDirectory,
} from './directory.js';
import { FsError } from './errno.js';
import { InodeTable, rootInode } from './inode.js';
import type { KeptOverlays, OverlaidCheckpoint } from './kept_overlays.js';
import { FsNode, type Attributes, type Caching, type Entry, type NodeKind } from './node.js';
import { type Ownership, ownOwnership } from './mount_options.js';
import { OverlaidNode, Overlays } from './overlay.js';
import { SharedSources, SourceNode } from './source.js';
import { statusNews } from './status_news.js';
import { StoredDirectory, storedTree, type StoredPath } from './stored.js';
import { ValueNode } from './value.js';
import type {
  CheckpointOutline,
  CheckpointView,
  DiskFile,
  SavingView,
  SourceFile,
  StoreView,
  VmView,
} from './view.js';

/** vms/<vm>/checkpoints/<name>/image/ is 5 deep; a checkpoint directory holds disks/<id>/<n>.redo. */
const maxDepth = 16;
export const maxNameBytes = 255;
const maxEntries = 100_000;

const modeOf: Record<NodeKind, number> = {
  directory: 0o040555,
  file: 0o100444,
  symlink: 0o120777,
};

const ownerWrites = 0o200;

export interface NodeStat extends Attributes {
  kind: NodeKind;
  /** File type and permissions, as st_mode. */
  mode: number;
  inode: number;
  uid: number;
  gid: number;
  /** As in {@link FsNode}; '' for what has none. */
  key: string;
  caching: Caching;
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
  readonly #overlays: Overlays;
  readonly #inodes = new InodeTable();
  readonly #root: FsNode;
  readonly #mountedMs = Date.now();

  readonly ownership: Ownership | undefined;
  readonly #owner: Ownership;

  /**
   * With `writable` the disks of checkpoints take writes (overlay.ts), and checkpoints come and go. With `kept`
   * what is written to disks outlasts the tree. Without `ownership` modes hold nobody back.
   */
  constructor(
    readonly view: StoreView,
    readonly writable = false,
    {
      kept,
      ownership,
    }: { kept?: KeptOverlays | undefined; ownership?: Ownership | undefined } = {},
  ) {
    this.ownership = ownership;
    this.#owner = ownership ?? ownOwnership();
    this.#overlays = new Overlays(kept);
    this.#root = new FixedDirectory(this.#mountedMs, [
      ['vms', this.#vms()],
      ['by-time', byTime(view, this.#mountedMs)],
    ]);
  }

  /** Discards what was written, or makes it durable where it is kept. */
  close(): Promise<void> {
    return this.#overlays.close();
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
      mode: this.#shownMode(node),
      inode: this.#inodes.of(identity),
      uid: this.#owner.uid,
      gid: this.#owner.gid,
      key: node.key ?? '',
      caching: node.caching,
    };
  }

  #shownMode({ kind, writable }: FsNode): number {
    const mode = modeOf[kind] | (writable ? ownerWrites : 0);
    // Nobody asks for the permissions of a symbolic link.
    return kind === 'symlink' ? mode : mode & ~this.#owner.umask;
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

  /** Makes a directory: takes a checkpoint. EROFS where that cannot be. */
  async makeDirectory(path: string): Promise<void> {
    const { directory, name } = await this.#parent(path);
    await directory.makeDirectory(name);
  }

  /** Removes a directory: a checkpoint. EROFS where that cannot be. */
  async removeDirectory(path: string): Promise<void> {
    const { directory, name } = await this.#parent(path);
    await directory.removeDirectory(name);
  }

  /** A checkpoint keeps the name that it was saved with. EPERM; EROFS elsewhere. */
  async rename(path: string): Promise<void> {
    const { directory } = await this.#parent(path);
    throw new FsError(directory.writable ? 'EPERM' : 'EROFS');
  }

  async #parent(path: string): Promise<{ directory: FsNode; name: string }> {
    const names = components(path);
    const name = names.pop();
    if (name === undefined) throw new FsError('EROFS');
    return { directory: await this.node(names.join('/')), name };
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

  #vm(name: string, vm: VmView): FsNode {
    const timeMs = vm.createdAt.getTime();
    const nodes: [string, FsNode][] = [
      ['status.json', new ValueNode(() => vm.status(), statusNews)],
    ];
    if (vm.live !== undefined) {
      nodes.push(['memory', this.#live(`live:${name}:memory`, vm.live.memory)]);
      const disks = [...vm.live.disks].map(([id, disk]): [string, FsNode] => [
        id,
        this.#live(`live:${name}:disks/${id}`, disk),
      ]);
      nodes.push(['disks', new FixedDirectory(timeMs, disks)]);
    }
    nodes.push(['layers', this.#layers(vm, timeMs)]);
    nodes.push(['checkpoints', this.#checkpoints(name, vm, timeMs)]);
    const made = new FixedDirectory(timeMs, nodes);
    const stored = new StoredDirectory(timeMs, () => Promise.resolve([...vm.files]));
    return new ListedDirectory(
      timeMs,
      async () => [...(await made.list()), ...(await stored.list())],
      async (child) => (await made.child(child)) ?? stored.child(child),
    );
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

  #checkpoints(vmName: string, vm: VmView, timeMs: number): FsNode {
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
        const outline = await vm.outline(name);
        if (outline) return this.#checkpoint(vmName, vm, outline);
        return saving?.name === name ? this.#saving(saving) : undefined;
      },
      this.writable
        ? {
            make: (name) => vm.takeCheckpoint(name),
            remove: (name) => vm.removeCheckpoint(name),
          }
        : undefined,
    );
  }

  /** The key of its memory is that of the published checkpoint: whoever has it open keeps it. */
  #saving({ id, begunAt, memory }: SavingView): FsNode {
    const timeMs = begunAt.getTime();
    const node = this.#source(`${id}:memory`, memory, () => timeMs);
    return new PassingDirectory(timeMs, [['memory', node]], id, new Map([['user.ckptfs.id', id]]));
  }

  #checkpoint(vmName: string, vm: VmView, outline: CheckpointOutline): FsNode {
    const { name, id, parentId, checksum } = outline;
    const timeMs = outline.createdAt.getTime();
    const extended = new Map<string, string>();
    if (id !== undefined) extended.set('user.ckptfs.id', id);
    if (checksum !== undefined) extended.set('user.ckptfs.checksum', checksum);
    if (parentId !== undefined) extended.set('user.ckptfs.parent', parentId);
    const load = async () => {
      const checkpoint = await vm.checkpoint(name);
      if (checkpoint === undefined) throw new FsError('ENOENT');
      return this.#contents({ vm: vmName, name, id: checkpoint.id }, checkpoint, timeMs);
    };
    return new DeferredDirectory(timeMs, load, id, extended);
  }

  /** What is in the directory of a checkpoint. */
  #contents(of: OverlaidCheckpoint, checkpoint: CheckpointView, timeMs: number): FsNode {
    const file = (name: string, source: SourceFile, key = name): [string, FsNode] => [
      name,
      this.#source(`${of.id}:${key}`, source, () => source.timeMs ?? timeMs),
    ];
    const disks = [...checkpoint.disks].map(([id, disk]): [string, FsNode] => [
      id,
      this.#disk(of, id, disk, timeMs),
    ]);
    return new FixedDirectory(timeMs, [
      // Compaction writes another one.
      file('manifest.json', checkpoint.manifest, `manifest.json:${checkpoint.checksum}`),
      file('device-state.json', checkpoint.deviceState),
      file('memory', checkpoint.memory),
      file('memory.elf', checkpoint.memoryElf),
      ['disks', new FixedDirectory(timeMs, disks)],
      ['image', storedTree(checkpoint.directory, timeMs)],
    ]);
  }

  #disk(checkpoint: OverlaidCheckpoint, id: string, disk: DiskFile, timeMs: number): FsNode {
    const key = `${checkpoint.id}:disks/${id}`;
    if (!this.writable) return this.#source(key, disk, () => timeMs);
    const of = { checkpoint, disk: id };
    // A copy of the checkpoint under another name has the same id.
    const own = `${checkpoint.vm}@${checkpoint.name}:${key}`;
    return new OverlaidNode(this.sources, this.#overlays, own, of, disk, () => timeMs);
  }

  #live(key: string, file: SourceFile): FsNode {
    return new SourceNode(this.sources, key, file, Date.now, 'none');
  }

  #source(key: string, file: SourceFile, timeMs: () => number): FsNode {
    return new SourceNode(this.sources, key, file, timeMs);
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
