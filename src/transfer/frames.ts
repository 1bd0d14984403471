/**
 * Frames over a pair of byte streams (docs/transfer-protocol.md): a head of 8 bytes, and what it announces.
 *
 *   kind (1 byte)   1 control, 2 data, 3 zeros
 *   reserved (3)    zero
 *   length (4)      of what follows, little-endian; of zeros 8, how many there are
 *
 * Data is handed on in the pieces in which it came, without a copy; the limits keep what is held in memory small
 * whatever the other side sends. One caller at a time reads, and one writes.
 */
import type { Writable } from 'node:stream';
import { CkptError } from '../errors.js';
import { maxControlBytes, violation } from './messages.js';

const headBytes = 8;
export const maxDataBytes = 4 << 20;
/** They are hashed one frame at a time. */
export const maxZeros = 1 << 30;
const kinds = { control: 1, data: 2, zeros: 3 } as const;

export type Frame =
  | { kind: 'control'; bytes: Buffer }
  /** `pieces` are good until the frame after the next is asked for. */
  | { kind: 'data'; bytes: number; pieces: Buffer[] }
  | { kind: 'zeros'; bytes: number };

/** Where it stands when the other side ends: between two frames that is no failure. */
export class FrameReader {
  readonly #chunks: AsyncIterator<Buffer>;
  #chunk: Buffer = Buffer.alloc(0);

  /** Without a byte for `idleMs` the other side counts as lost. */
  constructor(
    stream: AsyncIterable<Buffer>,
    private readonly idleMs?: number,
  ) {
    this.#chunks = stream[Symbol.asyncIterator]();
  }

  /** Checks the first bytes of the stream. */
  async expect(text: string): Promise<void> {
    const found = (await this.#take(text.length))?.toString('latin1');
    if (found === text) return;
    throw new CkptError(
      'IO',
      found === undefined
        ? 'the other side said nothing'
        : `the other side said ${JSON.stringify(found)} and not what ckptfs receive says; does its shell print anything when it starts?`,
    );
  }

  /** The next frame; undefined when the other side has ended between two. */
  async next(): Promise<Frame | undefined> {
    const head = await this.#take(headBytes);
    if (head === undefined) return undefined;
    const [kind, bytes] = [head.readUInt8(0), head.readUInt32LE(4)];
    if (head.readUIntLE(1, 3) !== 0) throw violation('reserved bytes of a frame are not zero');
    switch (kind) {
      case kinds.control: {
        if (bytes > maxControlBytes) throw violation('a control frame is too long');
        return { kind: 'control', bytes: await this.#all(bytes) };
      }
      case kinds.data: {
        if (bytes === 0 || bytes > maxDataBytes) throw violation(`a data frame of ${bytes} bytes`);
        return { kind: 'data', bytes, pieces: await this.#pieces(bytes) };
      }
      case kinds.zeros: {
        if (bytes !== 8) throw violation('a frame of zeros that does not say how many');
        const zeros = (await this.#all(8)).readBigUInt64LE();
        if (zeros === 0n || zeros > maxZeros) throw violation(`a frame of ${zeros} zeros`);
        return { kind: 'zeros', bytes: Number(zeros) };
      }
      default:
        throw violation(`a frame of kind ${kind}`);
    }
  }

  /** So many bytes in one piece; undefined when the stream ends before the first. */
  async #take(bytes: number): Promise<Buffer | undefined> {
    if (this.#chunk.length === 0 && !(await this.#fill())) return undefined;
    return this.#all(bytes);
  }

  async #all(bytes: number): Promise<Buffer> {
    return Buffer.concat(await this.#pieces(bytes));
  }

  async #pieces(bytes: number): Promise<Buffer[]> {
    const pieces: Buffer[] = [];
    for (let left = bytes; left > 0;) {
      if (this.#chunk.length === 0 && !(await this.#fill())) {
        throw new CkptError('IO', 'the connection ended in the middle; run the same command again');
      }
      const piece = this.#chunk.subarray(0, left);
      this.#chunk = this.#chunk.subarray(piece.length);
      pieces.push(piece);
      left -= piece.length;
    }
    return pieces;
  }

  /** Waits for more bytes; false at the end. */
  async #fill(): Promise<boolean> {
    const next = await this.#within(this.#chunks.next());
    if (next.done === true) return false;
    this.#chunk = next.value;
    return true;
  }

  async #within<T>(work: Promise<T>): Promise<T> {
    if (this.idleMs === undefined) return work;
    let timer: NodeJS.Timeout | undefined;
    const silence = new Promise<never>((_, reject) => {
      timer = setTimeout(
        () => reject(new CkptError('IO', `the other side has been silent for ${this.idleMs} ms`)),
        this.idleMs,
      );
    });
    try {
      return await Promise.race([work, silence]);
    } finally {
      clearTimeout(timer);
    }
  }
}

/** Every call resolves when the stream has taken the bytes: then a buffer may be used again. */
export class FrameWriter {
  #failure: Error | undefined;

  constructor(private readonly stream: Writable) {
    // A broken pipe is told by the write that meets it, or by what the other side has said before.
    stream.on('error', (error) => (this.#failure ??= error));
  }

  raw(text: string): Promise<void> {
    return this.#write([Buffer.from(text, 'latin1')]);
  }

  control(value: object): Promise<void> {
    const bytes = Buffer.from(JSON.stringify(value));
    return this.#write([head(kinds.control, bytes.length), bytes]);
  }

  data(bytes: Uint8Array): Promise<void> {
    return this.#write([head(kinds.data, bytes.length), bytes]);
  }

  zeros(count: number): Promise<void> {
    const bytes = Buffer.alloc(8);
    bytes.writeBigUInt64LE(BigInt(count));
    return this.#write([head(kinds.zeros, bytes.length), bytes]);
  }

  /** Says that nothing more will come. */
  end(): void {
    this.stream.end();
  }

  #write(parts: Uint8Array[]): Promise<void> {
    return new Promise((resolve, reject) => {
      if (this.#failure) return reject(this.#failure);
      this.stream.cork();
      for (const [i, part] of parts.entries()) {
        const isLast = i === parts.length - 1;
        this.stream.write(part, (error) => {
          if (error) reject(error);
          else if (isLast) resolve();
        });
      }
      this.stream.uncork();
    });
  }
}

function head(kind: number, bytes: number): Buffer {
  const frame = Buffer.alloc(headBytes);
  frame.writeUInt8(kind, 0);
  frame.writeUInt32LE(bytes, 4);
  return frame;
}
