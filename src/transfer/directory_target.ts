/**
 * A store in a directory of this machine as a target: the receiving side (reception.ts) in this process. Bytes do not
 * pass a connection; where the filesystem shares blocks (reflinks), none are copied at all.
 */
import { type FileHandle, realpath, rm, statfs } from 'node:fs/promises';
import { reflinkDisk } from '../checkpoint/disk_copy.js';
import { pathExists } from '../checkpoint/files.js';
import { Store } from '../checkpoint/store.js';
import { CkptError } from '../errors.js';
import { checksum, copyFile } from '../native.js';
import { program } from './connection.js';
import { openStored } from './content.js';
import { listStore } from './listing.js';
import type { ListedCheckpoint } from './messages.js';
import { offerOf, type Packed, type Parcel, refuseChanged } from './parcel.js';
import { sumPrefix } from './pump.js';
import { forgetIncoming, removeListed } from './removal.js';
import { Reception, type Wanted } from './reception.js';
import { Sources } from './sources.js';
import type { Judge, Sent, Target, TargetInfo, TransferHooks } from './target.js';

export class DirectoryTarget implements Target {
  private constructor(
    readonly store: Store,
    readonly info: TargetInfo,
  ) {}

  /** Opens the store at `path`, made with `create`. Errors are those of Store.open(). */
  static async open(path: string, options: { create?: boolean } = {}): Promise<DirectoryTarget> {
    const store = await Store.open(path, options);
    const { bavail, bsize } = await statfs(store.root);
    return new DirectoryTarget(store, { program, store: store.root, freeBytes: bavail * bsize });
  }

  /** Throws USAGE when this is the store that checkpoints are sent from. */
  async refuseSame(source: Store): Promise<void> {
    if ((await realpath(source.root)) !== (await realpath(this.store.root))) return;
    throw new CkptError('USAGE', `${source.root} is the store itself; name another one with --to`);
  }

  list(vm?: string): Promise<ListedCheckpoint[]> {
    return listStore(this.store, vm);
  }

  async send(parcel: Parcel, hooks: TransferHooks = {}, judge: Judge = () => {}): Promise<Sent> {
    const begun = performance.now();
    const { totalBytes } = parcel;
    const sent = { totalBytes, sentBytes: 0, zeroBytes: 0 };
    const ended = (state: Sent['state'], presentBytes: number): Sent => ({
      ...{ ...sent, state, presentBytes },
      totalMs: performance.now() - begun,
    });
    const begunReception = await Reception.begin(this.store, offerOf(parcel));
    if (begunReception === undefined) return ended('present', totalBytes);
    await using reception = begunReception;
    judge(parcel, reception.wanted);
    await using sources = await Sources.open(parcel, reception.wanted);
    let doneBytes = reception.presentBytes;
    const tell = (bytes: number): void => hooks.onProgress?.(doneBytes + bytes, totalBytes);
    for (const wanted of reception.wanted) {
      const { packed, file } = sources.of(wanted.index);
      if (!(await reflinked(reception, wanted, packed))) {
        await copied(reception, wanted, packed, file, (bytes) => tell(bytes), hooks.signal);
      }
      await reception.adopt(wanted.index);
      sent.sentBytes += packed.file.bytes - wanted.offset;
      doneBytes += packed.file.bytes - wanted.offset;
      tell(0);
      if (packed.outside) refuseChanged(packed.source, packed.outside);
    }
    await reception.commit();
    return ended('sent', reception.presentBytes);
  }

  remove(vm: string, name: string, id: string): Promise<void> {
    return removeListed(this.store, vm, name, id);
  }

  forget(vm: string): Promise<void> {
    return forgetIncoming(this.store, vm);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return Promise.resolve();
  }
}

/** Makes the whole file at once where blocks can be shared. */
async function reflinked(
  reception: Reception,
  { index, offset }: Wanted,
  { source, outside }: Packed,
): Promise<boolean> {
  const path = reception.partPath(index);
  if (offset > 0 || outside || (await pathExists(path))) return false;
  return reflinkDisk(source, path);
}

/** Copies the rest of a file, after what was copied before has been compared with it by a checksum. DAMAGED. */
async function copied(
  reception: Reception,
  { index, offset }: Wanted,
  { source, file: { bytes, path } }: Packed,
  file: FileHandle,
  onProgress: (bytes: number) => void,
  signal: AbortSignal | undefined,
): Promise<void> {
  const part = reception.partPath(index);
  if (offset > 0 && !(await startsLike(part, file, offset, signal))) {
    await rm(part, { force: true });
    throw new CkptError(
      'DAMAGED',
      `what was copied of ${path} before is not what it is; run the same command again, it is copied anew`,
      { file: path },
    );
  }
  await copyFile(await realpath(source), part, { from: offset, bytes }, { onProgress, signal });
}

/** Whether two files have the same first bytes. */
async function startsLike(
  part: string,
  file: FileHandle,
  bytes: number,
  signal: AbortSignal | undefined,
): Promise<boolean> {
  const [sum, expected] = [checksum(), checksum()];
  const opened = await openStored(part);
  try {
    await sumPrefix(opened, bytes, sum, signal);
  } finally {
    await opened.close();
  }
  await sumPrefix(file, bytes, expected, signal);
  return sum.digest() === expected.digest();
}
