/**
 * A connection between two stores: messages and data both ways, after both have said hello.
 *
 * One caller at a time. A message of type `error` is thrown where it is met. Pings are answered by nothing: they
 * only show that the other side lives.
 */
import type { Writable } from 'node:stream';
import { CkptError, errnoOf } from '../errors.js';
import { FrameReader, FrameWriter } from './frames.js';
import {
  errorMessage,
  type Message,
  type MessageOf,
  parseMessage,
  protocolVersion,
  remoteError,
  violation,
} from './messages.js';

/** What both sides say first: told from whatever a shell at the far end prints. */
export const greeting = 'CKPTXFER';
export const program = 'ckptfs';
/** How often the side that has nothing to say shows that it lives. */
const pingMs = 5000;

export type Received =
  | Exclude<Message, { type: 'error' }>
  | { type: 'data'; pieces: Buffer[]; bytes: number }
  | {
      type: 'zeros';
      bytes: number;
    };

export interface ConnectionOptions {
  /** Without a byte for so long the other side counts as lost; never without. */
  idleMs?: number;
}

export class Connection {
  readonly #reader: FrameReader;
  readonly #writer: FrameWriter;
  #pings: NodeJS.Timeout | undefined;

  constructor(
    readable: AsyncIterable<Buffer>,
    writable: Writable,
    options: ConnectionOptions = {},
  ) {
    this.#reader = new FrameReader(readable, options.idleMs);
    this.#writer = new FrameWriter(writable);
  }

  /** Says hello and hears it. UNSUPPORTED when the other side speaks another version. */
  async greet(own: Omit<MessageOf<'hello'>, 'type' | 'protocol' | 'program'> = {}) {
    const sent = this.#writer
      .raw(greeting)
      .then(() => this.send({ type: 'hello', protocol: protocolVersion, program, ...own }));
    // Why it could not be sent is told better by what the other side has said, or not.
    sent.catch(() => undefined);
    await this.#reader.expect(greeting);
    const hello = await this.expect('hello');
    await sent;
    if (hello.protocol === protocolVersion) return hello;
    throw new CkptError(
      'UNSUPPORTED',
      `the other side speaks version ${hello.protocol} of the transfer protocol, this one ${protocolVersion}; use the same version of ckptfs on both sides`,
    );
  }

  /** Sends pings from now on until it is closed. */
  keepAlive(): void {
    this.#pings = setInterval(() => {
      this.send({ type: 'ping' }).catch(() => undefined); // whoever waits is told
    }, pingMs).unref();
  }

  async send(message: Message): Promise<void> {
    await this.#writing(this.#writer.control(message));
  }

  async data(bytes: Uint8Array): Promise<void> {
    await this.#writing(this.#writer.data(bytes));
  }

  async zeros(count: number): Promise<void> {
    await this.#writing(this.#writer.zeros(count));
  }

  /** Tells the other side what failed, as far as it still listens. */
  async fail(failure: unknown): Promise<void> {
    await this.send(errorMessage(failure)).catch(() => undefined);
  }

  /** What comes next; undefined when the other side has ended. An error that it tells is thrown. */
  async receive(): Promise<Received | undefined> {
    for (;;) {
      const frame = await this.#reading();
      if (frame === undefined) return undefined;
      if (frame.kind !== 'control') return { ...frame, type: frame.kind } as Received;
      const message = parseMessage(frame.bytes);
      if (message.type === 'error') throw remoteError(message);
      if (message.type !== 'ping') return message;
    }
  }

  /** The next message, which must be of that type. */
  async expect<Type extends Message['type']>(...types: Type[]): Promise<MessageOf<Type>> {
    const received = await this.receive();
    if (received === undefined) throw lost();
    if (!types.some((type) => received.type === type)) {
      throw violation(`${received.type} in the place of ${types.join(' or ')}`);
    }
    return received as MessageOf<Type>;
  }

  /** Ends this side; the other one ends when it has read everything. */
  close(): void {
    clearInterval(this.#pings);
    this.#writer.end();
  }

  async #reading() {
    try {
      return await this.#reader.next();
    } catch (error) {
      throw errnoOf(error) === undefined ? error : lost(error);
    }
  }

  async #writing(work: Promise<void>): Promise<void> {
    try {
      await work;
    } catch (error) {
      throw lost(error);
    }
  }
}

/** The connection is gone; what has been transferred is kept. */
export function lost(cause?: unknown): CkptError {
  return new CkptError(
    'IO',
    'the connection was lost; run the same command again, it goes on where this one stopped',
    { lost: true },
    { cause },
  );
}
