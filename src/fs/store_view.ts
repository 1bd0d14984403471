/**
 * The view of a store for a mount; with a VM, of that VM alone, whose process makes the mount. Reads the
 * store as it is at every call. Manifests never change and are kept for as long as their file is the same.
 */
import { createHash } from 'node:crypto';
import { mkdtemp, realpath, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { diskLayers, openCheckpoint } from '../checkpoint/checkpoints.js';
import { attempt, namesIn, readSmallFile } from '../checkpoint/files.js';
import {
  deviceStateFile,
  type Manifest,
  manifestFile,
  parseManifest,
  readManifest,
} from '../checkpoint/manifest.js';
import { isName } from '../checkpoint/names.js';
import type { Store } from '../checkpoint/store.js';
import { CkptError, errnoOf } from '../errors.js';
import {
  type DiskLayers,
  openDisk,
  memoryDataBytes,
  openMemoryImage,
  openOverlay,
  type WritableSource,
} from '../native.js';
import { VmClient } from '../vmm/client.js';
import { storedConfig } from '../vmm/config.js';
import { coreFileBytes, KnownNotes, openCoreFile } from '../vmm/core_file.js';
import { layersOf } from '../vmm/disk_base.js';
import type { Vm } from '../vmm/vm.js';
import { CheckpointIndex } from './checkpoint_index.js';
import { type CheckpointedVm, removeCheckpoint, takeCheckpoint } from './checkpoint_changes.js';
import { DataBytes, filesDataBytes } from './data_bytes.js';
import { StoreWatch } from './store_watch.js';
import type { StoredPath } from './stored.js';
import { bufferSource } from './value.js';
import type { CheckpointView, LiveView, SourceFile, StoreView, VmView } from './view.js';

/** How long a VM process may take to tell its status. */
const statusLimitMs = 2000;

/** What the mount needs of the VM that makes it. */
export type LiveVm = Pick<Vm, 'name' | 'config' | 'memory' | 'disk' | 'savingMemory'> &
  CheckpointedVm;

export function storeView(store: Store, vm?: LiveVm): StoreView {
  const known: Known = {
    index: new CheckpointIndex(),
    manifests: new ManifestCache(),
    notes: new KnownNotes(),
    looked: new DataBytes(),
  };
  const live = vm && liveView(store, vm);
  return {
    root: store.root,
    live: vm !== undefined,
    watch(changed, lost) {
      const watching = new StoreWatch(store, vm?.name, changed, lost);
      return () => watching.close();
    },
    vmNames: () => (vm ? Promise.resolve([vm.name]) : store.listVms()),
    async vm(name) {
      if (!isName(name) || (vm && name !== vm.name)) return undefined;
      const createdAt = await modifiedAt(store.vmDirectory(name));
      return createdAt && vmView(store, known, name, createdAt, vm, live);
    },
  };
}

/** What is kept of checkpoints, which never change. */
interface Known {
  index: CheckpointIndex;
  manifests: ManifestCache;
  notes: KnownNotes;
  looked: DataBytes;
}

function vmView(
  store: Store,
  known: Known,
  name: string,
  createdAt: Date,
  vm: LiveVm | undefined,
  live: LiveView | undefined,
): VmView {
  return {
    createdAt,
    status: () => (vm ? Promise.resolve(vm.status()) : statusOf(store, name)),
    files: [store.configFile(name), store.consoleLog(name)].map(storedPath),
    async layers() {
      const config = await storedConfig(store, name);
      const layers = new Map<string, StoredPath[]>();
      for (const disk of config.disks) {
        const { parent, redo } = await layersOf(store.diskDirectory(name, disk.id), disk.path);
        // The parent may be given by a symbolic link, which the tree would not show.
        const path = await realpath(parent).catch(() => parent);
        layers.set(disk.id, [{ name: 'parent', path }, ...redo.map((log) => storedPath(log.path))]);
      }
      return layers;
    },
    async checkpointNames() {
      return (await namesIn(store.checkpointsDirectory(name))).filter(isName);
    },
    outlines: () => known.index.list(store.checkpointsDirectory(name)),
    async outline(checkpoint) {
      if (!isName(checkpoint)) return undefined;
      return known.index.find(store.checkpointsDirectory(name), checkpoint);
    },
    async checkpoint(checkpoint) {
      if (!isName(checkpoint)) return undefined;
      const directory = store.checkpointDirectory(name, checkpoint);
      if ((await modifiedAt(directory)) === undefined) return undefined;
      return checkpointView(directory, await known.manifests.read(directory), known);
    },
    takeCheckpoint: (checkpoint) => takeCheckpoint(store, name, checkpoint, vm),
    removeCheckpoint: (checkpoint) => removeCheckpoint(store, name, checkpoint, vm),
    ...(live ? { live } : {}),
  };
}

function checkpointView(
  directory: string,
  { manifest, bytes: manifestBytes, timeMs }: KnownManifest,
  { looked, notes }: Known,
): CheckpointView {
  const memoryData = () => looked.bytes(`${manifest.id}:memory`, () => memoryDataBytes(directory));
  return {
    id: manifest.id,
    checksum: manifest.checksum,
    directory,
    manifest: {
      ...checkedFile(join(directory, manifestFile), manifestBytes, parseManifest),
      timeMs, // compaction writes another one, of the same size perhaps
    },
    deviceState: deviceState(directory, manifest),
    memory: {
      bytes: manifest.memoryBytes,
      dataBytes: memoryData,
      open: () => openMemoryImage(directory),
    },
    memoryElf: {
      bytes: coreFileBytes(manifest),
      dataBytes: async () => coreFileBytes(manifest) - manifest.memoryBytes + (await memoryData()),
      open: async () => openCoreFile(await openCheckpoint(directory), notes),
    },
    disks: new Map(
      manifest.disks.map(({ id, parentIdentity: { bytes } }) => {
        const layers = () => diskLayers({ directory, manifest }, id);
        const disk = {
          bytes,
          dataBytes: () => looked.bytes(`${manifest.id}:${id}`, () => filesDataBytes(layers())),
          open: async () => openDisk(layers()),
          openOverlay: async (log?: string) =>
            log === undefined ? openTemporaryOverlay(layers()) : openOverlay(layers(), log),
        };
        return [id, disk];
      }),
    ),
  };
}

/** The log of the overlay loses its name at once: its space is free again however the process ends. */
async function openTemporaryOverlay(layers: DiskLayers): Promise<WritableSource> {
  return attempt(`cannot make an overlay in ${tmpdir()}`, async () => {
    const directory = await mkdtemp(join(tmpdir(), 'ckptfs-overlay-'));
    try {
      return await openOverlay(layers, join(directory, 'overlay.redo'));
    } finally {
      await rm(directory, { recursive: true });
    }
  });
}

/** A small file that is read whole and checked when it is opened. */
function checkedFile(
  path: string,
  bytes: number,
  check: (contents: Buffer, path: string) => void,
): SourceFile {
  return {
    bytes,
    async open() {
      const contents = await readSmallFile(path, bytes);
      check(contents, path);
      return bufferSource(contents);
    },
  };
}

function deviceState(directory: string, manifest: Manifest): SourceFile {
  const expected = manifest.files.find((file) => file.path === deviceStateFile);
  return checkedFile(join(directory, deviceStateFile), expected?.bytes ?? 0, (contents, path) => {
    if (createHash('sha256').update(contents).digest('hex') === expected?.sha256) return;
    throw new CkptError('DAMAGED', `${path} is damaged (its checksum differs)`, { file: path });
  });
}

function liveView(store: Store, vm: LiveVm): LiveView {
  const disks = vm.config.disks.map(({ id }): [string, SourceFile] => {
    const disk = vm.disk(id);
    const { bytes } = disk;
    disk.close();
    return [id, { bytes, open: () => Promise.resolve().then(() => vm.disk(id)) }];
  });
  return {
    memory: {
      bytes: vm.config.memoryBytes,
      open: () => Promise.resolve().then(() => vm.memory()),
    },
    disks: new Map(disks),
    saving() {
      const save = vm.saving();
      if (save === undefined) return undefined;
      const { id, name, begunAt } = save;
      const open = async () => {
        if (vm.saving()?.id === id) return vm.savingMemory();
        // It has been published since it was looked up.
        return openMemoryImage(store.checkpointDirectory(vm.name, name));
      };
      return { id, name, begunAt, memory: { bytes: vm.config.memoryBytes, open } };
    },
  };
}

/** What the VM's process says; "stopped" when there is none, "unresponsive" when it does not answer. */
async function statusOf(store: Store, vm: string): Promise<object> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<object>((resolve) => {
    timer = setTimeout(() => resolve({ vm, state: 'unresponsive' }), statusLimitMs);
  });
  const asked = VmClient.connect(vm, store.controlSocket(vm)).then((client) => client.status());
  try {
    return await Promise.race([asked, late]);
  } catch (error) {
    if (error instanceof CkptError && error.code === 'NOT_FOUND') return { vm, state: 'stopped' };
    throw error;
  } finally {
    clearTimeout(timer);
  }
}

function storedPath(path: string): StoredPath {
  return { name: basename(path), path };
}

/** When a directory last changed; undefined when it is not there or not a directory. */
async function modifiedAt(path: string): Promise<Date | undefined> {
  try {
    const stats = await stat(path);
    return stats.isDirectory() ? stats.mtime : undefined;
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return undefined;
    throw error;
  }
}

interface KnownManifest {
  /** Inode, size and change time of the file. */
  file: string;
  manifest: Manifest;
  bytes: number;
  timeMs: number;
}

/** Validated manifests by checkpoint directory: every look-up of a path goes through one. */
class ManifestCache {
  /** Some KiB each. */
  static readonly maxEntries = 4096;
  readonly #known = new Map<string, KnownManifest>();

  async read(directory: string): Promise<KnownManifest> {
    const { ino, size, mtimeMs, ctimeMs } = await stat(join(directory, manifestFile));
    const file = `${ino}:${size}:${ctimeMs}`;
    const known = this.#known.get(directory);
    if (known?.file === file) return known;
    const manifest = await readManifest(directory);
    const read = { file, manifest, bytes: size, timeMs: Math.floor(mtimeMs) };
    if (this.#known.size >= ManifestCache.maxEntries) this.#known.clear();
    this.#known.set(directory, read);
    return read;
  }
}
