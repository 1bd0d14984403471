/** A receiver at one end of a pair of streams, and bytes of a test's own at the other. */
import { PassThrough } from 'node:stream';
import type { Store } from '../../src/checkpoint/store.js';
import { type CkptError, toCkptError } from '../../src/errors.js';
import { Connection, greeting, program } from '../../src/transfer/connection.js';
import type { FarLink } from '../../src/transfer/arrival.js';
import { FarCheckpoint } from '../../src/transfer/far_checkpoint.js';
import { FrameWriter } from '../../src/transfer/frames.js';
import { type Message, protocolVersion } from '../../src/transfer/messages.js';
import type { Parcel } from '../../src/transfer/parcel.js';
import { sendParcel } from '../../src/transfer/send.js';
import { serve } from '../../src/transfer/serve.js';

const idleMs = 2000;

/** Serves `store` to whatever is written; `ended` says what the receiver ended with, if not well. */
export function receiver(store: Store): {
  toReceiver: PassThrough;
  fromReceiver: PassThrough;
  ended: Promise<CkptError | undefined>;
} {
  const [toReceiver, fromReceiver] = [new PassThrough(), new PassThrough()];
  const ended = serve(() => Promise.resolve(store), toReceiver, fromReceiver, { idleMs }).then(
    () => undefined,
    (error: unknown) => toCkptError(error),
  );
  return { toReceiver, fromReceiver, ended };
}

/** All that a sender sends when it sends `parcel` to `store`, which has it then. */
export async function recordedStream(store: Store, parcel: Parcel): Promise<Buffer> {
  const { toReceiver, fromReceiver, ended } = receiver(store);
  const sent: Buffer[] = [];
  const toWire = new PassThrough();
  toWire.on('data', (piece: Buffer) => sent.push(Buffer.from(piece)));
  toWire.pipe(toReceiver);
  const connection = new Connection(fromReceiver, toWire);
  await connection.greet();
  await sendParcel(connection, parcel);
  connection.close();
  const failure = await ended;
  if (failure) throw failure;
  return Buffer.concat(sent);
}

/** Sends bytes as they are; resolves with what the receiver ended with. */
export async function sendRaw(store: Store, bytes: Buffer): Promise<CkptError | undefined> {
  const { toReceiver, fromReceiver, ended } = receiver(store);
  fromReceiver.resume();
  toReceiver.end(bytes);
  return ended;
}

/** A sender that says hello and then what the test wants; resolves with what the receiver ended with. */
export async function say(
  store: Store,
  talk: (writer: FrameWriter) => Promise<void>,
): Promise<CkptError | undefined> {
  const { toReceiver, fromReceiver, ended } = receiver(store);
  fromReceiver.resume();
  const writer = new FrameWriter(toReceiver);
  await writer.raw(greeting);
  await writer.control({ type: 'hello', protocol: protocolVersion, program });
  // A receiver that has ended does not read any more.
  await Promise.race([talk(writer), ended]);
  writer.end();
  return ended;
}

/** What a far end that answers as the test wants is asked for, until it is cut. */
export type Answer = (request: Message, writer: FrameWriter) => Promise<void>;

/** A checkpoint that is opened at such a far end. */
export async function openedAt(of: { vm: string; name: string }, answer: Answer): Promise<FarLink> {
  const [toFar, fromFar] = [new PassThrough(), new PassThrough()];
  const writer = new FrameWriter(fromFar);
  const there = new Connection(toFar, fromFar);
  const answering = async (): Promise<void> => {
    await there.greet();
    for (let request = await there.receive(); request; request = await there.receive()) {
      await answer(request as Message, writer);
    }
  };
  answering().catch(() => undefined); // it was cut
  const connection = new Connection(fromFar, toFar);
  await connection.greet();
  return {
    far: await FarCheckpoint.open(connection, of.vm, of.name),
    explain: (failure) => Promise.resolve(failure),
    end: () => {
      for (const stream of [toFar, fromFar]) stream.destroy();
      return Promise.resolve();
    },
  };
}
