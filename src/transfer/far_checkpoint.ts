/**
 * A checkpoint at the far end of a connection, of which any range can be read (open_parcel.ts is the other side).
 *
 * Requests are answered in their order; several may be under way. What fails, fails them all: the connection is of no
 * use any more. Nothing that comes is trusted: an answer is exactly as long as what was asked for.
 */
import { toCkptError } from '../errors.js';
import { type Connection, lost, type Received } from './connection.js';
import { type Offer, violation } from './messages.js';

/** Takes the bytes of an answer, in their order; `pieces` are good until it returns. */
export interface ReadSink {
  data(position: number, pieces: readonly Buffer[], bytes: number): void;
  zeros(position: number, bytes: number): void;
}

interface Request {
  /** Takes the next part of its answer; true when that is all of it. */
  take(received: Received): boolean;
  resolve(): void;
  reject(error: unknown): void;
}

export class FarCheckpoint {
  readonly #requests: Request[] = [];
  #listening = false;
  #failure: unknown;

  private constructor(
    private readonly connection: Connection,
    readonly offer: Offer,
  ) {}

  /** Opens a checkpoint there. Its refusals are thrown: NOT_FOUND, DAMAGED, BUSY. */
  static async open(connection: Connection, vm: string, name: string): Promise<FarCheckpoint> {
    await connection.send({ type: 'open', vm, name });
    return new FarCheckpoint(connection, await connection.expect('offer'));
  }

  /** Reads a range of a file, by its place in the manifest; at most maxReadBytes, within the file. */
  read(index: number, offset: number, bytes: number, sink: ReadSink): Promise<void> {
    let done = 0;
    const count = (more: number): number => {
      if (done + more > bytes) throw violation('more bytes than were asked for');
      const position = offset + done;
      done += more;
      return position;
    };
    return this.#ask({ type: 'read', index, offset, bytes }, (received) => {
      if (received.type === 'data') {
        sink.data(count(received.bytes), received.pieces, received.bytes);
      } else if (received.type === 'zeros') {
        sink.zeros(count(received.bytes), received.bytes);
      } else {
        throw violation(`${received.type} in the place of data`);
      }
      return done === bytes;
    });
  }

  /** XXH3-64 of a whole file, in 16 hexadecimal digits. */
  async sum(index: number): Promise<string> {
    let checksum = '';
    await this.#ask({ type: 'sum', index }, (received) => {
      if (received.type !== 'end') throw violation(`${received.type} in the place of a checksum`);
      checksum = received.checksum;
      return true;
    });
    return checksum;
  }

  #ask(
    message: Parameters<Connection['send']>[0],
    take: (received: Received) => boolean,
  ): Promise<void> {
    return new Promise((resolve, reject) => {
      if (this.#failure !== undefined) return reject(toCkptError(this.#failure));
      this.#requests.push({ take, resolve, reject });
      this.connection.send(message).catch((error: unknown) => this.#fail(error));
      if (!this.#listening) void this.#listen();
    });
  }

  /** Reads while somebody waits for something. */
  async #listen(): Promise<void> {
    this.#listening = true;
    try {
      for (let request = this.#requests[0]; request !== undefined; request = this.#requests[0]) {
        const received = await this.connection.receive();
        if (received === undefined) throw lost();
        if (!request.take(received)) continue;
        this.#requests.shift();
        request.resolve();
      }
    } catch (error) {
      this.#fail(error);
    } finally {
      this.#listening = false;
    }
  }

  #fail(error: unknown): void {
    this.#failure ??= error;
    for (const request of this.#requests.splice(0)) request.reject(this.#failure);
  }
}
