/**
 * Publishing a checkpoint: all of it appears under its name, durably, or nothing does.
 *
 * Order: files are written in checkpoints/.tmp-<id>/; commit() makes each of them durable, writes
 * manifest.json under a temporary name, renames it, makes the directory durable, renames the directory to
 * its name, and makes the parent durable. A crash anywhere leaves the old state or the new one, and at most
 * a .tmp- directory, which cleanUnpublished() removes.
 *
 * rename(2) of a directory replaces only an empty directory, and a published one holds a manifest: so a
 * name that is taken is refused by the kernel itself, even when two publish at once.
 *
 * Owner: the process that holds the VM's lock; one Publication is used by one caller at a time.
 */
import { mkdir, rename, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import createDebug from 'debug';
import { CkptError, errnoOf, systemError } from '../errors.js';
import { listCheckpoints } from './checkpoints.js';
import {
  attempt,
  linkOrCopy,
  namesIn,
  pathExists,
  readTail,
  replacementPattern,
  sha256File,
  syncPath,
  walkTree,
  writeDurable,
} from './files.js';
import {
  deviceStateFile,
  type Manifest,
  type ManifestDraft,
  type ManifestFile,
  manifestFile,
  memoryMapFile,
  writeManifest,
} from './manifest.js';
import { cleanCompactions } from './compact_lock.js';
import { compactionPrefix, newId, receptionPrefix, temporaryPrefix } from './names.js';
import { cleanReceptions } from './receive_lock.js';
import type { Store } from './store.js';

const debug = createDebug('ckptfs:publish');
const parallelSyncs = 16;
const manifestTemporary = `${manifestFile}.new`;

/** An unpublished checkpoint. Ends with commit() or abandon(), on every path. */
export class Publication {
  private constructor(
    readonly vm: string,
    readonly name: string,
    readonly id: string,
    /** Where its files are to be written. */
    readonly directory: string,
    private readonly target: string,
  ) {}

  /**
   * Makes the temporary directory; one that comes from elsewhere has an id already, and a prefix of its own
   * (receive_lock.ts). EXISTS when the name is taken already.
   */
  static async begin(
    store: Store,
    vm: string,
    name: string,
    { id, prefix } = { id: newId(), prefix: temporaryPrefix },
  ): Promise<Publication> {
    const target = store.checkpointDirectory(vm, name);
    if (await pathExists(target)) throw taken(vm, name);
    const directory = join(store.checkpointsDirectory(vm), `${prefix}${id}`);
    await attempt(`cannot create a checkpoint in ${store.checkpointsDirectory(vm)}`, async () => {
      await mkdir(directory, { recursive: true, mode: 0o700 });
    });
    debug('begin %s@%s as %s', vm, name, id);
    return new Publication(vm, name, id, directory, target);
  }

  /** Adds a sealed file by a hard link (or a copy) under a relative path; made durable by commit(). */
  async link(source: string, path: string): Promise<void> {
    const target = await this.place(path);
    await attempt(`cannot add ${source} to checkpoint ${this.vm}@${this.name}`, () =>
      linkOrCopy(source, target),
    );
  }

  /** Where a file of that relative path is to be written; made durable by commit(). */
  async place(path: string): Promise<string> {
    const target = join(this.directory, path);
    await attempt(`cannot write ${target}`, () =>
      mkdir(dirname(target), { recursive: true, mode: 0o700 }),
    );
    return target;
  }

  /** Adds a small file. */
  async write(path: string, data: string | Uint8Array): Promise<void> {
    const target = join(this.directory, path);
    await attempt(`cannot write ${target}`, () => writeDurable(target, data));
  }

  /**
   * Publishes what the directory holds. When all is durable but the name, `admit` is waited for, which may reject it
   * as it would be. On failure (EXISTS, NO_SPACE, IO) nothing is left behind and the publication is over.
   * `draft.id` must be this publication's.
   */
  async commit(
    draft: ManifestDraft,
    admit: (manifest: Manifest, directory: string) => Promise<void> = () => Promise.resolve(),
  ): Promise<Manifest> {
    try {
      const manifest = await this.#seal(draft);
      await admit(manifest, this.directory);
      await this.#rename();
      debug('published %s@%s', this.vm, this.name);
      return manifest;
    } catch (error) {
      await this.abandon().catch((second: unknown) => debug('abandon: %o', second));
      throw systemError(error, `cannot publish checkpoint ${this.vm}@${this.name}`);
    }
  }

  /** Removes everything; nothing when it is gone already. */
  async abandon(): Promise<void> {
    await attempt(`cannot remove ${this.directory}`, () =>
      rm(this.directory, { recursive: true, force: true }),
    );
    debug('ended %s@%s', this.vm, this.name);
  }

  /** Makes the contents durable, the manifest last. */
  async #seal(draft: ManifestDraft): Promise<Manifest> {
    if (draft.id !== this.id || draft.name !== this.name || draft.vm !== this.vm) {
      throw new Error('the manifest is of another checkpoint');
    }
    return sealDirectory(this.directory, draft);
  }

  async #rename(): Promise<void> {
    try {
      await rename(this.directory, this.target);
    } catch (error) {
      const errno = errnoOf(error) ?? '';
      throw ['EEXIST', 'ENOTEMPTY', 'ENOTDIR'].includes(errno) ? taken(this.vm, this.name) : error;
    }
    try {
      await syncPath(dirname(this.target));
    } catch (error) {
      // Its name is not known to be durable: take it back, so that a failure leaves nothing.
      await rename(this.target, this.directory);
      throw error;
    }
  }
}

function taken(vm: string, name: string): CkptError {
  return new CkptError(
    'EXISTS',
    `checkpoint ${vm}@${name} exists already; choose another --name or remove it (ckptfs rm ${vm}@${name})`,
    { vm, name },
  );
}

/** Writes the manifest of all files in `directory` and makes all of it durable, the manifest last. */
export async function sealDirectory(directory: string, draft: ManifestDraft): Promise<Manifest> {
  const { files, directories } = await describe(directory);
  const { manifest, text } = writeManifest(draft, files);
  // At once: a filesystem with a journal writes that once for many.
  for (let at = 0; at < files.length; at += parallelSyncs) {
    const some = files.slice(at, at + parallelSyncs);
    await Promise.all(some.map(({ path }) => syncPath(join(directory, path))));
  }
  await writeDurable(join(directory, manifestTemporary), text);
  await rename(join(directory, manifestTemporary), join(directory, manifestFile));
  for (const inner of directories) await syncPath(join(directory, inner));
  await syncPath(directory);
  return manifest;
}

/** The manifest's list of files, by path, with checksums of those that carry none inside. */
async function describe(
  directory: string,
): Promise<{ files: ManifestFile[]; directories: string[] }> {
  const tree = await walkTree(directory);
  if (tree.others.length > 0) throw new Error(`not a file: ${tree.others.join(', ')}`);
  const files: ManifestFile[] = [];
  for (const [path, bytes] of [...tree.files].sort(([a], [b]) => (a < b ? -1 : 1))) {
    const small = path === deviceStateFile || path === memoryMapFile;
    files.push({
      path,
      bytes,
      ...(small ? { sha256: await sha256File(join(directory, path)) } : {}),
      ...(path === memoryMapFile ? { tail: await readTail(join(directory, path)) } : {}),
    });
  }
  return { files, directories: tree.directories };
}

/** Removes what was learnt of checkpoints that are gone. Damaged ones cannot be told from these. */
export async function cleanOrders(store: Store, vm: string): Promise<void> {
  const directory = store.ordersDirectory(vm);
  const orders = await namesIn(directory);
  if (orders.length === 0) return;
  const entries = await listCheckpoints(store, vm);
  const kept = new Set(entries.map(({ manifest }) => `${manifest?.id}.order`));
  for (const name of orders.filter((order) => !kept.has(order))) {
    const path = join(directory, name);
    await attempt(`cannot remove ${path}`, () => rm(path, { force: true }));
  }
}

/**
 * Removes what saves, removals and replaced files that were cut short left behind. Only for the holder of
 * the VM's lock that has no save under way: then none of it is alive. Resolves with how many there were.
 */
export async function cleanUnpublished(store: Store, vm: string): Promise<number> {
  const [checkpoints, home] = [store.checkpointsDirectory(vm), store.vmDirectory(vm)];
  // A compaction or a reception may be under way; they clear up after themselves and others of their kind.
  const others = [compactionPrefix, receptionPrefix];
  const leftovers = [
    ...(await namesIn(checkpoints))
      .filter((name) => name.startsWith(temporaryPrefix))
      .filter((name) => !others.some((prefix) => name.startsWith(prefix)))
      .map((name) => join(checkpoints, name)),
    ...(await namesIn(home))
      .filter((name) => replacementPattern.test(name))
      .map((name) => join(home, name)),
  ];
  for (const path of leftovers) {
    debug('removing leftover %s', path);
    await attempt(`cannot remove ${path}`, () => rm(path, { recursive: true, force: true }));
  }
  return (
    leftovers.length + (await cleanCompactions(store, vm)) + (await cleanReceptions(store, vm))
  );
}
