/**
 * The files that have come, or are coming, of checkpoints that are not published yet:
 *
 *   vms/<vm>/incoming/<id>-<bytes>          a link of what an earlier checkpoint has
 *   vms/<vm>/incoming/<id>-<bytes>.part     as much as has come so far, from its start; all of it, maybe
 *   vms/<vm>/incoming/<id>-<bytes>.sparse   of what comes in any order (sparse_file.ts): of full size, with holes
 *   vms/<vm>/incoming/<id>-<bytes>.pieces   what of that is known to be there
 *   vms/<vm>/incoming/opened/               what comes, as a checkpoint's directory: what a VM runs from meanwhile
 *
 * Names are contents (content.ts), so that what has come counts for whatever checkpoint it belongs to. A part may
 * hold anything after a power cut: its checksum is taken over all of it, what was there before included, before it
 * is used. It becomes durable with the checkpoint that is published with it.
 *
 * Owner: the holder of the VM's receive.lock.
 */
import { constants, type Stats } from 'node:fs';
import { type FileHandle, lstat, mkdir, open, rm } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { attempt, namesIn } from '../checkpoint/files.js';
import { CkptError, errnoOf, systemError } from '../errors.js';
import { type Checksum, checksum } from '../native.js';
import { violation } from './messages.js';
import { sumPrefix } from './pump.js';

const partSuffix = '.part';
const sparseSuffix = '.sparse';
const piecesSuffix = '.pieces';
const blockBytes = 512; // of stat
/**
 * Larger writes make Linux put larger folios into its page cache, of memory that the host of a virtual machine has to
 * find first: 2 MiB at a time are three times slower there, and no faster elsewhere.
 */
const writeBytes = 256 << 10;
/** How much is written between two times that it is made durable: little is left to do at the end. */
const syncBytes = 64 << 20;

/** What is to come: its contents, its size, and how it is called for people. */
export interface Expected {
  id: string;
  bytes: number;
  path: string;
}

/** The directory of a VM for what has come. Only paths. */
export class IncomingDirectory {
  /** `sparse`: files come in any order, and not each from its start to its end. */
  constructor(
    private readonly directory: string,
    private readonly sparse = false,
  ) {}

  /** Makes it; refuses one that is a symbolic link, which would lead out of the store. */
  async prepare(): Promise<void> {
    await attempt(`cannot create ${this.directory}`, async () => {
      await mkdir(this.directory, { mode: 0o700 }).catch((error: unknown) => {
        if (errnoOf(error) !== 'EEXIST') throw error;
      });
      if ((await lstat(this.directory)).isDirectory()) return;
      throw new CkptError('IO', `${this.directory} is not a directory; remove it`);
    });
  }

  pathOf({ id, bytes }: Expected): string {
    return join(this.directory, `${id}-${bytes}`);
  }

  /** What comes of it. */
  partOf(expected: Expected): string {
    return `${this.pathOf(expected)}${this.sparse ? sparseSuffix : partSuffix}`;
  }

  /** What of a sparse file is known to be there. */
  piecesOf(expected: Expected): string {
    return `${this.pathOf(expected)}${piecesSuffix}`;
  }

  /** What comes, as the directory of a checkpoint. */
  get opened(): string {
    return join(this.directory, 'opened');
  }

  /** How much of a file is here, of a sparse one about; 'whole' when an earlier checkpoint has it. */
  async has(expected: Expected): Promise<'whole' | number> {
    const look = async (path: string): Promise<Stats | undefined> => {
      const stats = await lstat(path).catch(() => undefined);
      return stats?.isFile() === true ? stats : undefined;
    };
    if ((await look(this.pathOf(expected)))?.size === expected.bytes) return 'whole';
    const part = await look(this.partOf(expected));
    const bytes = this.sparse ? (part?.blocks ?? 0) * blockBytes : part?.size;
    return Math.min(bytes ?? 0, expected.bytes);
  }

  /** Removes what is of none of these. */
  async keepOnly(expected: readonly Expected[]): Promise<void> {
    const known = new Set(
      expected
        .flatMap((file) => [
          this.pathOf(file),
          this.partOf(file),
          ...(this.sparse ? [this.piecesOf(file)] : []),
        ])
        .map((path) => basename(path)),
    );
    for (const name of (await namesIn(this.directory)).filter((found) => !known.has(found))) {
      const path = join(this.directory, name);
      await attempt(`cannot remove ${path}`, () => rm(path, { recursive: true, force: true }));
    }
  }

  async remove(): Promise<void> {
    await attempt(`cannot remove ${this.directory}`, () =>
      rm(this.directory, { recursive: true, force: true }),
    );
  }
}

/** A file that is coming. Ends with finish() or leave(), on every path. */
export class IncomingFile {
  readonly sum: Checksum = checksum();
  #position: number;
  #unsyncedBytes = 0;
  #syncing = Promise.resolve();

  private constructor(
    private readonly place: IncomingDirectory,
    readonly expected: Expected,
    private readonly file: FileHandle,
    offset: number,
  ) {
    this.#position = offset;
  }

  /** Goes on at `offset`, with what is there before it. */
  static async open(
    place: IncomingDirectory,
    expected: Expected,
    offset: number,
    signal?: AbortSignal,
  ): Promise<IncomingFile> {
    const path = place.partOf(expected);
    const flags = constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW;
    const file = await attempt(`cannot write ${path}`, () => open(path, flags, 0o600));
    try {
      const { size } = await file.stat();
      if (offset > size) throw violation('a file goes on behind what is there of it');
      // Not in vain: a file that was truncated is written back when it is closed, by ext4 for one.
      if (offset < size) await file.truncate(offset);
      const incoming = new IncomingFile(place, expected, file, offset);
      await sumPrefix(file, offset, incoming.sum, signal);
      return incoming;
    } catch (error) {
      await file.close();
      throw systemError(error, `cannot write ${path}`);
    }
  }

  /** The next bytes. USAGE when they are more than was announced; NO_SPACE, IO. */
  async data(pieces: readonly Buffer[]): Promise<void> {
    const bytes = pieces.reduce((sum, piece) => sum + piece.length, 0);
    this.#refuseMore(bytes);
    for (const piece of pieces) this.sum.update(piece);
    await attempt(`cannot write ${this.place.partOf(this.expected)}`, async () => {
      for (let rest = pieces; rest.length > 0;) {
        const { bytesWritten } = await this.file.writev(firstOf(rest), this.#position);
        this.#position += bytesWritten;
        rest = after(rest, bytesWritten);
      }
      this.#unsyncedBytes += bytes;
      if (this.#unsyncedBytes >= syncBytes) await this.#sync();
    });
  }

  /** Begins to make durable what is there, once the time before has ended. */
  async #sync(): Promise<void> {
    await this.#syncing;
    this.#unsyncedBytes = 0;
    this.#syncing = this.file.datasync().catch(async (error: unknown) => {
      // The system tells of it once: another attempt would take for durable what is in the page cache alone.
      await rm(this.place.partOf(this.expected), { force: true });
      throw error;
    });
    this.#syncing.catch(() => undefined); // met by the next one, or by finish()
  }

  /** So many zeros, which take no room. */
  zeros(count: number): Promise<void> {
    this.#refuseMore(count);
    for (let left = count; left > 0; left -= zeroBytes.length) {
      this.sum.update(zeroBytes.subarray(0, left));
    }
    this.#position += count;
    return Promise.resolve();
  }

  /** All of it has come: checks it. DAMAGED when it is not what was sent. */
  async finish(expectedSum: string): Promise<void> {
    const { bytes, path } = this.expected;
    try {
      if (this.#position !== bytes) {
        throw violation(`${path} ended after ${this.#position} of ${bytes} bytes`);
      }
      if (this.sum.digest() !== expectedSum) {
        // What is wrong is in it or in what was there before: both go.
        await this.discard();
        throw new CkptError(
          'DAMAGED',
          `${path} has not arrived as it was sent (its checksum differs); run the same command again, it is sent anew`,
          { file: path },
        );
      }
      await this.#syncing;
      // Zeros at its end are there once it has its size.
      if ((await this.file.stat()).size < bytes) await this.file.truncate(bytes);
    } catch (error) {
      throw systemError(error, `cannot write ${this.place.partOf(this.expected)}`);
    } finally {
      await this.leave();
    }
  }

  /** What has come is not what it should be. */
  async discard(): Promise<void> {
    await attempt(`cannot write ${this.place.partOf(this.expected)}`, () => this.file.truncate(0));
    this.#position = 0;
  }

  /** Keeps what has come so far. */
  async leave(): Promise<void> {
    await this.#syncing.catch(() => undefined);
    await this.file.close();
  }

  #refuseMore(bytes: number): void {
    if (this.#position + bytes <= this.expected.bytes) return;
    throw violation(`${this.expected.path} is longer than was announced`);
  }
}

const zeroBytes = Buffer.alloc(1 << 20);

/** As many pieces as are written at once. */
function firstOf(pieces: readonly Buffer[]): readonly Buffer[] {
  let bytes = 0;
  const end = pieces.findIndex((piece) => (bytes += piece.length) >= writeBytes);
  return end < 0 ? pieces : pieces.slice(0, end + 1);
}

/** What is left of pieces when so many bytes of them have been written. */
function after(pieces: readonly Buffer[], bytes: number): readonly Buffer[] {
  let skip = bytes;
  for (const [i, piece] of pieces.entries()) {
    if (skip < piece.length) return [piece.subarray(skip), ...pieces.slice(i + 1)];
    skip -= piece.length;
  }
  return [];
}
