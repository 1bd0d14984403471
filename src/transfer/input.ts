/**
 * What comes by a pipe or a socket, read into one ring of memory that is used again and again: a new buffer for every
 * read, as streams have, is a gigabyte of garbage for a gigabyte received, and collecting that a tenth of the work.
 */
import { type ConnectOpts, Socket, type SocketConstructorOpts } from 'node:net';
import { pageBuffer } from '../native.js';

/** At least what is ahead, one more read, and what those who take may hold. */
const ringBytes = 16 << 20;
/** What a pipe holds. */
const leastReadBytes = 64 << 10;
/** As much is read ahead, and at once. */
const aheadBytes = 1 << 20;

/** Standard input, whose chunks are good until 12 MiB more have been taken, and may not be for longer. */
export function standardInput(): AsyncIterable<Buffer> {
  try {
    return new Input(0);
  } catch (error) {
    if (error instanceof TypeError) return process.stdin; // a file, say
    throw error;
  }
}

/** What comes by one descriptor, for one who takes it. */
class Input implements AsyncIterable<Buffer> {
  readonly #ring = pageBuffer(ringBytes);
  #at = 0;
  readonly #chunks: Buffer[] = [];
  #heldBytes = 0;
  #isPaused = false;
  #isAtEnd = false;
  #failure: Error | undefined;
  #wake: () => void = () => undefined;
  readonly #socket: Socket;

  /** Reads from a descriptor of this process, which it takes over. TypeError: it is neither pipe nor socket. */
  constructor(fd: number) {
    const options: SocketConstructorOpts & ConnectOpts = {
      ...{ fd, readable: true, writable: false },
      onread: { buffer: () => this.#room(), callback: (bytes) => this.#came(bytes) },
    };
    this.#socket = new Socket(options);
    this.#socket.once('end', () => {
      this.#isAtEnd = true;
      this.#wake();
    });
    this.#socket.once('error', (error) => {
      this.#failure = error;
      this.#wake();
    });
    this.#socket.resume();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Buffer, void> {
    for (;;) {
      const chunk = this.#chunks.shift();
      if (chunk) {
        this.#heldBytes -= chunk.length;
        if (this.#isPaused && this.#heldBytes < aheadBytes / 2) this.#goOn();
        yield chunk;
      } else if (this.#failure) {
        throw this.#failure;
      } else if (this.#isAtEnd) {
        return;
      } else {
        await new Promise<void>((resolve) => (this.#wake = resolve));
      }
    }
  }

  #room(): Buffer {
    if (ringBytes - this.#at < leastReadBytes) this.#at = 0;
    // A socket may hold more than is ahead: what was taken before would be overwritten.
    return this.#ring.subarray(this.#at, this.#at + aheadBytes);
  }

  /** False: no more for now. */
  #came(bytes: number): boolean {
    const last = this.#chunks.at(-1);
    const chunk = this.#ring.subarray(this.#at, this.#at + bytes);
    this.#at += bytes;
    this.#heldBytes += bytes;
    this.#chunks.push(chunk);
    if (last === undefined) this.#wake();
    this.#isPaused = this.#heldBytes >= aheadBytes;
    return !this.#isPaused;
  }

  #goOn(): void {
    this.#isPaused = false;
    this.#socket.resume();
  }
}
