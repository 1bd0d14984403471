/**
 * The far end of a connection in this process, over a pair of streams that a test holds back, cuts, falsifies and
 * looks into.
 */
import { PassThrough, Transform, type TransformCallback } from 'node:stream';
import type { Store } from '../../src/checkpoint/store.js';
import { CkptError } from '../../src/errors.js';
import type { Dial, FarLink } from '../../src/transfer/arrival.js';
import { Connection } from '../../src/transfer/connection.js';
import { FarCheckpoint } from '../../src/transfer/far_checkpoint.js';
import { FrameReader } from '../../src/transfer/frames.js';
import { type Message, parseMessage } from '../../src/transfer/messages.js';
import { serve } from '../../src/transfer/serve.js';

/** Lets through what is allowed, in its order. */
class Gate extends Transform {
  passedBytes = 0;
  #allowedBytes = Infinity;
  #open: () => void = () => {};

  constructor(private readonly change: (chunk: Buffer) => Buffer) {
    super();
  }

  /** So many bytes more; Infinity: all. */
  allow(bytes: number): void {
    this.#allowedBytes = this.passedBytes + bytes;
    this.#open();
  }

  override _transform(chunk: Buffer, _encoding: string, done: TransformCallback): void {
    void this.#pass(chunk).then(() => done());
  }

  async #pass(chunk: Buffer): Promise<void> {
    for (let at = 0; at < chunk.length && !this.destroyed;) {
      const bytes = Math.min(chunk.length - at, this.#allowedBytes - this.passedBytes);
      if (bytes > 0) {
        this.push(this.change(Buffer.from(chunk.subarray(at, at + bytes))));
        this.passedBytes += bytes;
        at += bytes;
      } else {
        await new Promise<void>((resolve) => (this.#open = resolve));
      }
    }
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    this.#open();
    done(error);
  }
}

export class FarEnd {
  /** What was asked for, in order; pings left out. */
  readonly requests: Message[] = [];
  dials = 0;
  /** Why it cannot be reached. */
  refusal: CkptError | undefined;
  /** What becomes of the bytes on their way back. */
  change: (chunk: Buffer) => Buffer = (chunk) => chunk;
  #gate: Gate | undefined;
  #cut: () => void = () => {};
  #limitBytes = Infinity;
  #pastBytes = 0;

  constructor(
    private readonly store: Store,
    private readonly vm: string,
    private readonly name: string,
  ) {}

  /** What has come of it, over all connections. */
  get bytes(): number {
    return this.#pastBytes + (this.#gate?.passedBytes ?? 0);
  }

  readonly dial: Dial = async (): Promise<FarLink> => {
    this.dials++;
    if (this.refusal) throw this.refusal;
    const [toFar, seen] = [new PassThrough(), new PassThrough()];
    // A pipe copies too: the far end uses its buffer again.
    const fromFar = new Transform({
      transform: (chunk: Buffer, _encoding, done) => done(null, Buffer.from(chunk)),
    });
    const gate = new Gate((chunk) => this.change(chunk));
    fromFar.pipe(gate);
    toFar.pipe(seen);
    const served = new PassThrough();
    toFar.pipe(served);
    void this.#watch(seen);
    serve(() => Promise.resolve(this.store), served, fromFar).catch(() => undefined);
    this.#pastBytes = this.bytes;
    this.#gate = gate;
    const cut = (): void => {
      gate.destroy(Object.assign(new Error('the connection was cut'), { code: 'ECONNRESET' }));
      for (const stream of [fromFar, toFar, served, seen]) stream.destroy();
    };
    this.#cut = cut;
    const connection = new Connection(gate, toFar);
    await connection.greet();
    const far = await FarCheckpoint.open(connection, this.vm, this.name);
    gate.allow(this.#limitBytes);
    return {
      far,
      explain: (failure) => Promise.resolve(failure),
      // A far end that is cut amid a write is not told so by streams within a process: it is left behind.
      end: () => {
        connection.close();
        cut();
        return Promise.resolve();
      },
    };
  };

  /** Of a connection so much is let through after its offer; also of those to come. */
  limit(bytes: number): void {
    this.#limitBytes = bytes;
    this.#gate?.allow(bytes);
  }

  /** So many bytes more of the connection that there is. */
  allow(bytes: number): void {
    this.#gate?.allow(bytes);
  }

  /** The connection that there is ends. */
  cut(): void {
    this.#cut();
  }

  async #watch(stream: PassThrough): Promise<void> {
    const reader = new FrameReader(stream);
    try {
      await reader.expect('CKPTXFER');
      for (let frame = await reader.next(); frame; frame = await reader.next()) {
        if (frame.kind !== 'control') continue;
        const message = parseMessage(frame.bytes);
        if (message.type !== 'ping') this.requests.push(message);
      }
    } catch {
      // It was cut.
    }
  }
}
