/**
 * The receiving side of a checkpoint, whoever sends it: over a connection (receive.ts) or in this process
 * (directory_target.ts).
 *
 * It trusts nothing. What is offered is validated before anything is made; only what the manifest names is taken,
 * with exactly its size; checksums are verified as it comes; and before it is published the checkpoint is opened as
 * a restore would open it, and its manifest made anew from what is there, which must give the manifest that was
 * offered. Until then nothing shows but incoming/ (incoming.ts), which the next attempt goes on with.
 *
 * What the VM has already, in an earlier checkpoint, is linked into incoming/ and not sent.
 *
 * A guard: it holds the VM's receive.lock until it is closed.
 */
import { lstat, rm, statfs, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import createDebug from 'debug';
import {
  type Checkpoint,
  type CheckpointEntry,
  diskLayers,
  listCheckpoints,
  openCheckpoint,
} from '../checkpoint/checkpoints.js';
import {
  attempt,
  linkOnly,
  linkOrCopy,
  makePrivateDirectory,
  namesIn,
} from '../checkpoint/files.js';
import {
  draftOf,
  type Manifest,
  manifestFile,
  type ManifestFile,
  parseManifest,
} from '../checkpoint/manifest.js';
import { receptionPrefix } from '../checkpoint/names.js';
import { Publication } from '../checkpoint/publish.js';
import { lockReception } from '../checkpoint/receive_lock.js';
import type { Store } from '../checkpoint/store.js';
import { CkptError, errnoOf, isLostWrite, systemError, toCkptError } from '../errors.js';
import { type FileLock, lockFile, openDisk, openMemoryImage, setModified } from '../native.js';
import { contentId, openStored, parentTime } from './content.js';
import { type Expected, IncomingDirectory, IncomingFile } from './incoming.js';
import { type Offer, violation } from './messages.js';
import { SparseFile } from './sparse_file.js';

const debug = createDebug('ckptfs:transfer');
/** Longer than a receiver waits for a sender that is gone (receive.ts). */
export const lockLimitMs = 30_000;
/** What a checkpoint consists of: nothing else is taken. */
const pathPattern =
  /^(?:memory\.map|device-state\.json|[0-9a-f]{32}\.(?:hot|cold)|disks\/[A-Za-z0-9][A-Za-z0-9._-]{0,63}\/(?:\d{8}-)?\d{8}\.(?:redo|raw))$/;
const maxMtimeDigits = 19;
/** Of one file: 64 TiB. Only disks may have holes, so nothing else can be larger than what is free. */
const maxFileBytes = 2 ** 46;
/** Kept free of what arrives, for the manifest and the filesystem's own use. */
const spareBytes = 1 << 20;

/** A file of the checkpoint, and how it gets here. */
interface Part extends Expected {
  file: ManifestFile;
  allocatedBytes: number;
  /** How much of it is in incoming/ already. */
  here: 'whole' | number;
}

/** A file that has to be sent: its place in the manifest, and from where on. */
export interface Wanted {
  index: number;
  offset: number;
}

export class Reception implements AsyncDisposable {
  readonly wanted: readonly Wanted[];
  #current: IncomingFile | undefined;
  readonly #missing: Set<number>;

  private constructor(
    private readonly store: Store,
    readonly manifest: Manifest,
    private readonly place: IncomingDirectory,
    private readonly parts: readonly Part[],
    private readonly lock: FileLock,
    private readonly text: string,
  ) {
    const seen = new Set<string>();
    this.wanted = parts.flatMap(({ here, bytes, id }, index) => {
      const key = `${id}-${bytes}`;
      // Contents that two files share come once.
      if (here === 'whole' || seen.has(key)) return [];
      seen.add(key);
      return [{ index, offset: here }];
    });
    this.#missing = new Set(this.wanted.map(({ index }) => index));
  }

  /**
   * Judges an offer; undefined when the store has that checkpoint already. Rejects with a reason for the sender:
   * DAMAGED, UNSUPPORTED (its manifest), USAGE (what is no checkpoint), EXISTS (its name is another's), BUSY,
   * NO_SPACE. With `sparse` its files come in any order, by whoever puts them to
   * partPath() and says adopt(). Of another checkpoint than `of` it is DAMAGED.
   */
  static async begin(
    store: Store,
    offer: Offer,
    { sparse = false, of }: { sparse?: boolean; of?: { vm: string; name: string } } = {},
  ): Promise<Reception | undefined> {
    const manifest = parseManifest(Buffer.from(offer.manifest), 'the offered manifest');
    if (of && (manifest.vm !== of.vm || manifest.name !== of.name)) {
      throw new CkptError('DAMAGED', `the far end offers ${manifest.vm}@${manifest.name} instead`);
    }
    const parts = partsOf(manifest, offer);
    const { vm, name, id } = manifest;
    await prepareVm(store, vm);
    const lock = await lockReception(store, vm, lockLimitMs);
    const place = new IncomingDirectory(store.incomingDirectory(vm), sparse);
    try {
      const entries = await listCheckpoints(store, vm);
      if (entries.some((entry) => entry.manifest?.id === id)) {
        lock.unlock();
        return undefined;
      }
      if (entries.some((entry) => entry.name === name)) {
        throw new CkptError(
          'EXISTS',
          `${store.root} has another checkpoint named ${vm}@${name}; remove that one, or choose another name for this one`,
          { vm, name },
        );
      }
      await place.prepare();
      await place.keepOnly(parts);
      for (const part of parts) part.here = await place.has(part);
      await linkPresent(entries, parts, place);
      const reception = new Reception(store, manifest, place, parts, lock, offer.manifest);
      await reception.#refuseFull();
      debug('%s@%s: %d of %d files wanted', vm, name, reception.wanted.length, parts.length);
      return reception;
    } catch (error) {
      await forgetVm(store, vm);
      lock.unlock();
      throw error;
    }
  }

  /** Bytes of the checkpoint that were here already, in an earlier checkpoint or from an earlier attempt. */
  get presentBytes(): number {
    const all = this.parts.reduce((sum, { bytes }) => sum + bytes, 0);
    const coming = this.wanted.reduce(
      (sum, { index, offset }) => sum + this.part(index).bytes - offset,
      0,
    );
    return all - coming;
  }

  part(index: number): Part {
    const part = this.parts[index];
    if (part === undefined) throw violation('a file that was not offered');
    return part;
  }

  /** The next file that comes, one that is wanted, from where it is wanted. */
  async open(index: number, offset: number, signal?: AbortSignal): Promise<IncomingFile> {
    const part = this.part(index);
    if (this.#current) throw violation('a file begins before the last one has ended');
    if (!this.#missing.has(index) || offset !== part.here) {
      throw violation('a file that is not wanted');
    }
    this.#current = await IncomingFile.open(this.place, part, offset, signal);
    return this.#current;
  }

  /** The current file has come, all of it. */
  async finish(index: number, sum: string): Promise<void> {
    const file = this.#current;
    if (!file) throw violation('the end of no file');
    this.#current = undefined;
    await file.finish(sum);
    await this.#settle(index);
  }

  /** What has come of a file that comes in any order. */
  sparse(index: number): Promise<SparseFile> {
    return SparseFile.open(this.place, this.part(index));
  }

  /**
   * What has come and is coming, as a checkpoint's directory that can be opened; by links alone, so that what comes
   * still, comes there too. UNSUPPORTED where files cannot have several names.
   */
  async openedDirectory(): Promise<string> {
    const directory = this.place.opened;
    await rm(directory, { recursive: true, force: true });
    for (const part of this.parts) {
      const target = join(directory, part.path);
      await makePrivateDirectory(dirname(target));
      await attempt(`cannot add ${part.path}`, () => linkOnly(this.#placeOf(part), target));
    }
    await writeFile(join(directory, manifestFile), this.text, { mode: 0o600 });
    return directory;
  }

  /** Where a file may be made in another way than by open(); adopt() then takes it. */
  partPath(index: number): string {
    return this.place.partOf(this.part(index));
  }

  adopt(index: number): Promise<void> {
    return this.#settle(index);
  }

  /** Publishes the checkpoint, all of which is here. DAMAGED when it does not hold together. */
  async commit(): Promise<void> {
    if (this.#missing.size > 0 || this.#current) throw violation('not all files have come');
    const { vm, name, id, disks } = this.manifest;
    const { checksum } = this.manifest;
    const publication = await Publication.begin(this.store, vm, name, {
      id,
      prefix: receptionPrefix,
    });
    try {
      for (const part of this.parts) {
        const target = await publication.place(part.path);
        await attempt(`cannot add ${part.path}`, () => linkOrCopy(this.#placeOf(part), target));
        const time = parentTime({ disks }, part.path);
        if (time !== undefined) setModified(target, time);
      }
      await publication.commit(draftOf(this.manifest), async (made, directory) => {
        if (made.checksum !== checksum) throw notWhole(vm, name);
        await openLikeRestore(directory);
      });
    } catch (error) {
      await publication.abandon();
      // What does not hold together is sent anew, all of it, and so is what is lost.
      if (toCkptError(error).code === 'DAMAGED' || isLostWrite(error)) await this.place.remove();
      throw error;
    }
    await this.place.remove();
    debug('received %s@%s', vm, name);
  }

  /** Keeps what has come for the next attempt. */
  async [Symbol.asyncDispose](): Promise<void> {
    try {
      await this.#current?.leave();
      await forgetVm(this.store, this.manifest.vm);
    } finally {
      this.lock.unlock();
    }
  }

  /** A file is here: it must have the contents that its name says. */
  async #settle(index: number): Promise<void> {
    const part = this.part(index);
    const path = this.place.partOf(part);
    const file = await attempt(`cannot read ${path}`, () => openStored(path));
    try {
      if ((await contentId(this.manifest, part.file, file)) !== part.id) {
        await rm(path, { force: true });
        throw violation(`${part.path} has other contents than were offered`);
      }
    } finally {
      await file.close();
    }
    this.#missing.delete(index);
  }

  /** Where a file of the checkpoint is, in incoming/. */
  #placeOf(part: Part): string {
    return part.here === 'whole' ? this.place.pathOf(part) : this.place.partOf(part);
  }

  async #refuseFull(): Promise<void> {
    const { bavail, bsize } = await statfs(this.store.root);
    const freeBytes = bavail * bsize;
    const neededBytes = this.wanted.reduce((sum, { index, offset }) => {
      return sum + Math.max(0, this.part(index).allocatedBytes - offset);
    }, spareBytes);
    if (neededBytes <= freeBytes) return;
    throw new CkptError(
      'NO_SPACE',
      `${this.store.root} has ${freeBytes} bytes free and the checkpoint needs ${neededBytes}; free some space and try again`,
      { freeBytes, neededBytes },
    );
  }
}

/** The files that the manifest names and the offer tells more of, if a checkpoint can have them. */
function partsOf(manifest: Manifest, offer: Offer): Part[] {
  const { files, disks } = manifest;
  if (offer.files.length !== files.length)
    throw violation('it offers other files than the manifest names');
  for (const { id, parent, parentIdentity } of disks) {
    if (parent.startsWith('/'))
      throw violation(`disk ${id} lies on a file outside of the checkpoint`);
    if (parentIdentity.mtimeNs.length > maxMtimeDigits) throw violation(`the time of disk ${id}`);
  }
  return files.map((file, i) => {
    const offered = offer.files[i];
    const { path, bytes } = file;
    if (!offered || !pathPattern.test(path)) throw violation(`a file named ${path}`);
    if (bytes > maxFileBytes) throw violation(`a file of ${bytes} bytes`);
    const allocatedBytes = path.endsWith('.raw') ? Math.min(offered.allocatedBytes, bytes) : bytes;
    return { id: offered.id, allocatedBytes, path, bytes, file, here: 0 };
  });
}

/** The directory of the VM, made if it is new. One that is a symbolic link would lead out of the store. */
async function prepareVm(store: Store, vm: string): Promise<void> {
  if (!(await store.hasVm(vm))) {
    await store.createVm(vm).catch(async (error: unknown) => {
      if (!(await store.hasVm(vm))) throw error;
    });
  }
  await refuseLink(store.vmDirectory(vm));
  await makePrivateDirectory(store.checkpointsDirectory(vm));
  await refuseLink(store.checkpointsDirectory(vm));
}

async function refuseLink(path: string): Promise<void> {
  if ((await lstat(path)).isDirectory()) return;
  throw new CkptError('IO', `${path} is not a directory; remove it`, { path });
}

/** Removes a VM that a reception has made and that has got nothing. */
export async function forgetVm(store: Store, vm: string): Promise<void> {
  if ((await namesIn(store.incomingDirectory(vm))).length > 0) return;
  if (!(await store.isUnfinished(vm))) return;
  const lock = lockFile(store.lockFile(vm)); // a VM of that name may just be starting here
  if (!lock) return;
  try {
    await store.removeVm(vm);
  } finally {
    lock.unlock();
  }
}

/** Links into incoming/ what the checkpoints of the VM have of the parts. */
async function linkPresent(
  entries: readonly CheckpointEntry[],
  parts: readonly Part[],
  place: IncomingDirectory,
): Promise<void> {
  const bySize = new Map<number, Part[]>();
  for (const part of parts) bySize.set(part.bytes, [...(bySize.get(part.bytes) ?? []), part]);
  /** Links of one file are looked at once; its id depends on the time that the manifest has of a parent. */
  const seen = new Set<string>();
  for (const { manifest, directory } of entries.toReversed()) {
    for (const file of manifest?.files ?? []) {
      const missing = (bySize.get(file.bytes) ?? []).filter(({ here }) => here !== 'whole');
      if (!manifest || missing.length === 0 || !pathPattern.test(file.path)) continue;
      const path = join(directory, file.path);
      const found = await lstat(path).catch(() => undefined);
      if (found?.isFile() !== true || found.size !== file.bytes) continue;
      const key = `${found.ino} ${parentTime(manifest, file.path) ?? ''}`;
      if (seen.has(key)) continue;
      seen.add(key);
      const id = await idOf(manifest, file, path);
      for (const part of missing) if (part.id === id) await adopt(part, path, place);
    }
  }
}

/** Links a file of a checkpoint, unless that has just been removed. */
async function adopt(part: Part, path: string, place: IncomingDirectory): Promise<void> {
  try {
    await linkOrCopy(path, place.pathOf(part));
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return;
    if (errnoOf(error) !== 'EEXIST') throw systemError(error, `cannot link ${path}`);
  }
  part.here = 'whole';
}

/** Undefined when it has been removed meanwhile. */
async function idOf(
  manifest: Manifest,
  file: ManifestFile,
  path: string,
): Promise<string | undefined> {
  const opened = await openStored(path).catch(() => undefined);
  if (!opened) return undefined;
  try {
    return await contentId(manifest, file, opened);
  } finally {
    await opened.close();
  }
}

/** Whatever a restore refuses is refused here: manifest, sizes, map and segments, disks with their parents. */
async function openLikeRestore(directory: string): Promise<void> {
  const checkpoint = await openCheckpoint(directory);
  (await openMemoryImage(directory)).close();
  await openDisks(checkpoint);
}

/** The disks of it alone; whatever the machine then reads to open them is here, if the checkpoint is arriving. */
export async function openDisksLikeRestore(directory: string): Promise<void> {
  await openDisks(await openCheckpoint(directory));
}

async function openDisks(checkpoint: Checkpoint): Promise<void> {
  for (const { id } of checkpoint.manifest.disks) {
    (await openDisk(diskLayers(checkpoint, id))).close();
  }
}

function notWhole(vm: string, name: string): CkptError {
  return new CkptError(
    'DAMAGED',
    `${vm}@${name} was not published, as its files are not those of its manifest; verify it where it comes from`,
    { vm, name },
  );
}
