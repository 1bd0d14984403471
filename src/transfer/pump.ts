/**
 * Reading a file from a position to its end, for whoever sends or copies it: the next piece is read while the last one
 * is on its way. Long zeros are told apart, so that they need not be sent and become holes.
 */
import type { FileHandle } from 'node:fs/promises';
import { CkptError } from '../errors.js';
import { type Checksum, pageBuffer } from '../native.js';

/** Every piece costs some turns of the event loop, which wait for a processor where that is busy. */
const standardPieceBytes = 8 << 20;
/** What becomes a hole: a block of most filesystems, or some of them. */
const holeBytes = 64 << 10;
const zeroBytes = Buffer.alloc(holeBytes);

export interface Sink {
  /** `bytes` are good until it resolves. */
  data(bytes: Buffer): Promise<void>;
  zeros(count: number): Promise<void>;
}

export interface PumpHooks {
  onBytes?: (bytes: number) => void;
  signal?: AbortSignal | undefined;
}

/** Whether all of it is zero. */
function isZero(part: Buffer): boolean {
  return zeroBytes.compare(part, 0, part.length, 0, part.length) === 0;
}

/** Gives a piece to the sink, in runs of zeros and of other bytes. */
export async function give(piece: Buffer, sink: Sink): Promise<void> {
  for (let at = 0; at < piece.length;) {
    const zero = isZero(piece.subarray(at, at + holeBytes));
    let end = Math.min(at + holeBytes, piece.length);
    while (end < piece.length && isZero(piece.subarray(end, end + holeBytes)) === zero) {
      end = Math.min(end + holeBytes, piece.length);
    }
    await (zero ? sink.zeros(end - at) : sink.data(piece.subarray(at, end)));
    at = end;
  }
}

/** Reads exactly so many bytes; IO when the file has become shorter. */
export async function readPiece(file: FileHandle, into: Buffer, position: number): Promise<Buffer> {
  for (let done = 0; done < into.length;) {
    const { bytesRead } = await file.read(into, done, into.length - done, position + done);
    if (bytesRead === 0) throw new CkptError('IO', 'a file became shorter while it was read');
    done += bytesRead;
  }
  return into;
}

/** Reads `file` from `from` to `bytes` into the sink, and all that it reads into the checksum. */
export async function pump(
  file: FileHandle,
  {
    from,
    bytes,
    sum,
    pieceBytes = standardPieceBytes,
  }: { from: number; bytes: number; sum?: Checksum; pieceBytes?: number },
  sink: Sink,
  { onBytes, signal }: PumpHooks = {},
): Promise<void> {
  const buffers = [pageBuffer(pieceBytes), pageBuffer(pieceBytes)] as const;
  const read = (position: number, turn: number): Promise<Buffer> | undefined => {
    if (position >= bytes) return undefined;
    const buffer = buffers[turn % 2 === 0 ? 0 : 1];
    const piece = readPiece(
      file,
      buffer.subarray(0, Math.min(pieceBytes, bytes - position)),
      position,
    );
    piece.catch(() => undefined); // its failure is met below, if it comes to that
    return piece;
  };
  let position = from;
  let reading = read(position, 0);
  for (let turn = 1; reading !== undefined; turn++) {
    if (signal?.aborted) throw new CkptError('CANCELLED', 'the transfer was cancelled');
    const piece: Buffer = await reading;
    position += piece.length;
    reading = read(position, turn);
    sum?.update(piece);
    await give(piece, sink);
    onBytes?.(piece.length);
  }
}

/** Reads the first `bytes` of a file into the checksum. */
export async function sumPrefix(
  file: FileHandle,
  bytes: number,
  sum: Checksum,
  signal?: AbortSignal,
): Promise<void> {
  const none = { data: () => Promise.resolve(), zeros: () => Promise.resolve() };
  await pump(file, { from: 0, bytes, sum }, none, { signal });
}
