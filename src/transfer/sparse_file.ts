/**
 * A file of a checkpoint that comes in any order: of full size from the start, with holes where nothing has come.
 *
 * What of it is there is kept beside it, for the next attempt: after a power cut only what was durable before it was
 * noted counts. `<...>.pieces` is 16 bytes (inode and time of birth of the sparse file, so that no other one is taken
 * for it), a bit for each piece of 128 KiB, and XXH3-64 of all that, as 16 hexadecimal digits; replaced as one.
 *
 * What comes is written at once, without a promise: readers on the addon's threads wait for it, and may hold all the
 * threads that Node's own file operations would wait for.
 */
import { constants, writeSync, writevSync } from 'node:fs';
import { type FileHandle, open, rm } from 'node:fs/promises';
import { attempt, readSmallFile, replaceFile } from '../checkpoint/files.js';
import { CkptError, systemError, toCkptError } from '../errors.js';
import { arrivalPieceBytes as pieceBytes, checksum, punchHole } from '../native.js';
import type { Expected, IncomingDirectory } from './incoming.js';
import { PieceSet } from './piece_set.js';
import { sumPrefix } from './pump.js';

const headBytes = 16;
const sumChars = 16;
const zeroBytes = Buffer.alloc(1 << 20);

export class SparseFile {
  /** What is in the file; what was there before is known to be durable. */
  readonly here: PieceSet;
  #noted: number;
  #syncFailure: CkptError | undefined;

  private constructor(
    private readonly place: IncomingDirectory,
    readonly expected: Expected,
    private readonly file: FileHandle,
    private readonly identity: Buffer,
    /** Nothing was ever written to it but by this object: what has not come is a hole. */
    private readonly isNew: boolean,
    here: PieceSet,
  ) {
    this.here = here;
    this.#noted = here.count;
  }

  /** Makes the file, or goes on with it. */
  static async open(place: IncomingDirectory, expected: Expected): Promise<SparseFile> {
    const path = place.partOf(expected);
    const flags = constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW;
    const file = await attempt(`cannot write ${path}`, () => open(path, flags, 0o600));
    try {
      const { size, ino, birthtimeNs } = await file.stat({ bigint: true });
      const identity = Buffer.alloc(headBytes);
      identity.writeBigUInt64LE(ino);
      identity.writeBigUInt64LE(birthtimeNs, 8);
      const pieces = Math.ceil(expected.bytes / pieceBytes);
      const isNew = size !== BigInt(expected.bytes);
      if (isNew) {
        await file.truncate(0);
        await file.truncate(expected.bytes);
      }
      const bits = isNew ? undefined : await readPieces(place.piecesOf(expected), identity, pieces);
      const here = new PieceSet(pieces, bits);
      return new SparseFile(place, expected, file, identity, isNew, here);
    } catch (error) {
      await file.close();
      throw systemError(error, `cannot write ${path}`);
    }
  }

  get fd(): number {
    return this.file.fd;
  }

  get isWhole(): boolean {
    return this.here.count === this.here.size;
  }

  /** Of its bytes. */
  get hereBytes(): number {
    const { count, size } = this.here;
    const last = size > 0 && this.here.has(size - 1);
    return count * pieceBytes - (last ? size * pieceBytes - this.expected.bytes : 0);
  }

  /** Writes within the file. */
  data(position: number, pieces: readonly Buffer[], bytes: number): void {
    try {
      const written = writevSync(this.fd, pieces, position);
      if (written === bytes) return;
      // Cut short by the system: the rest tells why, or goes through.
      const rest = Buffer.concat(pieces).subarray(written);
      for (let done = 0; done < rest.length;) {
        done += writeSync(this.fd, rest, done, rest.length - done, position + written + done);
      }
    } catch (error) {
      throw systemError(error, `cannot write ${this.place.partOf(this.expected)}`);
    }
  }

  zeros(position: number, bytes: number): void {
    if (this.isNew || punchHole(this.fd, position, bytes)) return;
    for (let done = 0; done < bytes; done += zeroBytes.length) {
      const part = zeroBytes.subarray(0, bytes - done);
      this.data(position + done, [part], part.length);
    }
  }

  /** Makes what is here durable, and then notes it for the next attempt. */
  async note(): Promise<void> {
    if (this.#syncFailure !== undefined || this.here.count === this.#noted) return;
    const { count } = this.here;
    const content = Buffer.concat([this.identity, this.here.bits]);
    try {
      await this.file.datasync();
    } catch (error) {
      const what = `cannot write ${this.place.partOf(this.expected)}`;
      this.#syncFailure = toCkptError(systemError(error, what));
      throw this.#syncFailure;
    }
    const sum = checksum();
    sum.update(content);
    const text = Buffer.from(sum.digest(), 'latin1');
    await replaceFile(this.place.piecesOf(this.expected), Buffer.concat([content, text]));
    this.#noted = count;
  }

  /** DAMAGED when some of it could not be made durable: the system tells of that once, to note(). */
  refuseLost(): void {
    const { path } = this.expected;
    if (this.#syncFailure === undefined) return;
    throw new CkptError(
      'DAMAGED',
      `${path} could not be written to the disk (${this.#syncFailure.message}); look into the disk, then run the same command again`,
      { file: path },
    );
  }

  /** XXH3-64 of all of it. */
  async sum(signal?: AbortSignal): Promise<string> {
    const sum = checksum();
    await sumPrefix(this.file, this.expected.bytes, sum, signal);
    return sum.digest();
  }

  /** What is in it is not what it should be: nothing of it counts for the next attempt. */
  async discard(): Promise<void> {
    for (const path of [this.place.piecesOf(this.expected), this.place.partOf(this.expected)]) {
      await attempt(`cannot remove ${path}`, () => rm(path, { force: true }));
    }
    this.#noted = this.here.count;
  }

  async close(): Promise<void> {
    await this.file.close();
  }
}

/** The bits of the pieces that are there; undefined when nothing is known of the file with that identity. */
async function readPieces(
  path: string,
  identity: Buffer,
  pieces: number,
): Promise<Uint8Array | undefined> {
  const bytes = headBytes + Math.ceil(pieces / 8) + sumChars;
  const content = await readSmallFile(path, bytes).catch(() => undefined);
  if (content?.length !== bytes || !content.subarray(0, headBytes).equals(identity)) {
    return undefined;
  }
  const end = bytes - sumChars;
  const sum = checksum();
  sum.update(content.subarray(0, end));
  if (sum.digest() !== content.toString('latin1', end)) return undefined;
  return content.subarray(headBytes, end);
}
