/** Receiving a checkpoint over a connection, once it has been offered. */
import { CkptError } from '../errors.js';
import { type Connection, lost } from './connection.js';
import type { IncomingFile } from './incoming.js';
import { violation } from './messages.js';
import type { Reception } from './reception.js';
import type { TransferHooks } from './target.js';

/**
 * Takes what is sent for a reception that has begun, and publishes it; without one the store has the checkpoint
 * already. Whatever fails is thrown and ends the connection; what has come is kept.
 */
export async function receiveParcel(
  connection: Connection,
  begun: Reception | undefined,
  hooks: TransferHooks = {},
): Promise<'received' | 'present'> {
  if (begun === undefined) {
    await connection.send({ type: 'present' });
    return 'present';
  }
  await using reception = begun;
  const totalBytes = reception.manifest.files.reduce((sum, { bytes }) => sum + bytes, 0);
  let doneBytes = reception.presentBytes;
  const came = (bytes: number): void => hooks.onProgress?.((doneBytes += bytes), totalBytes);
  await connection.send({ type: 'wanted', files: [...reception.wanted] });
  let current: { index: number; file: IncomingFile } | undefined;
  // One write is under way while the next bytes come.
  let writing = Promise.resolve();
  for (;;) {
    if (hooks.signal?.aborted) throw new CkptError('CANCELLED', 'the transfer was cancelled');
    const received = await connection.receive();
    await writing;
    if (received === undefined) throw lost();
    switch (received.type) {
      case 'file': {
        const { index, offset } = received;
        current = { index, file: await reception.open(index, offset, hooks.signal) };
        break;
      }
      case 'data':
        if (!current) throw violation('data of no file');
        writing = current.file.data(received.pieces);
        writing.catch(() => undefined); // met above
        came(received.bytes);
        break;
      case 'zeros':
        if (!current) throw violation('zeros of no file');
        await current.file.zeros(received.bytes);
        came(received.bytes);
        break;
      case 'end':
        if (!current) throw violation('the end of no file');
        await reception.finish(current.index, received.checksum);
        current = undefined;
        break;
      case 'commit':
        await reception.commit();
        await connection.send({ type: 'published' });
        return 'received';
      default:
        throw violation(`${received.type} amid a checkpoint`);
    }
  }
}
