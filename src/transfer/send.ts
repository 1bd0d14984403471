/** Sending a checkpoint over a connection, to whoever receives it there (receive.ts). */
import { setTimeout } from 'node:timers/promises';
import { toCkptError } from '../errors.js';
import { checksum } from '../native.js';
import type { Connection } from './connection.js';
import { offerOf, type Parcel, refuseChanged } from './parcel.js';
import { pump, sumPrefix } from './pump.js';
import { Sources } from './sources.js';
import type { Judge, Sent, TransferHooks } from './target.js';

/** One frame, where it is not split by zeros. */
const pieceBytes = 2 << 20;

/** Offers a parcel and sends what is wanted of it. What the other side refuses is thrown. */
export async function sendParcel(
  connection: Connection,
  parcel: Parcel,
  hooks: TransferHooks = {},
  judge: Judge = () => {},
): Promise<Sent> {
  const begun = performance.now();
  const { totalBytes } = parcel;
  const sent = { totalBytes, sentBytes: 0, zeroBytes: 0 };
  await connection.send(offerOf(parcel));
  const answer = await connection.expect('wanted', 'present');
  const ended = (state: Sent['state'], presentBytes: number): Sent => ({
    ...{ ...sent, state, presentBytes },
    totalMs: performance.now() - begun,
  });
  if (answer.type === 'present') return ended('present', totalBytes);
  judge(parcel, answer.files);
  await using sources = await Sources.open(parcel, answer.files);
  const wantedBytes = answer.files.reduce(
    (sum, { index, offset }) => sum + sources.of(index).packed.file.bytes - offset,
    0,
  );
  let doneBytes = totalBytes - wantedBytes;
  const told = connection.expect('published');
  told.catch(() => undefined); // thrown below
  // A refusal in the middle is met here, and not only as a pipe that nobody reads.
  const refused = told.then(() => undefined);
  refused.catch(() => undefined);
  const stream = async (): Promise<void> => {
    for (const { index, offset } of answer.files) {
      const { packed, file } = sources.of(index);
      const sum = checksum();
      await sumPrefix(file, offset, sum, hooks.signal);
      await connection.send({ type: 'file', index, offset });
      const sink = {
        data: (bytes: Buffer) => ((sent.sentBytes += bytes.length), connection.data(bytes)),
        zeros: (count: number) => ((sent.zeroBytes += count), connection.zeros(count)),
      };
      await pump(file, { from: offset, bytes: packed.file.bytes, sum, pieceBytes }, sink, {
        onBytes: (bytes) => hooks.onProgress?.((doneBytes += bytes), totalBytes),
        signal: hooks.signal,
      });
      if (packed.outside) refuseChanged(packed.source, packed.outside);
      await connection.send({ type: 'end', checksum: sum.digest() });
    }
    await connection.send({ type: 'commit' });
  };
  const streaming = stream();
  try {
    await Promise.race([streaming, refused]);
    await streaming;
  } catch (error) {
    throw await reasonOf(error, told);
  }
  await told;
  return ended('sent', totalBytes - wantedBytes);
}

const reasonMs = 1000;

/** Why the other side has stopped reading, if that is what has happened and it says so. */
async function reasonOf(failure: unknown, told: Promise<unknown>): Promise<unknown> {
  if (toCkptError(failure).code !== 'IO') return failure;
  const reason = told.then(
    () => failure,
    (why: unknown) => why,
  );
  return Promise.race([reason, setTimeout(reasonMs, failure)]);
}
