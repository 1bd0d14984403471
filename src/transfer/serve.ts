/**
 * The far end of a connection: what `ckptfs receive` does. One request after the other until the other side ends.
 * A request that is refused is answered with the reason, and the next one may come; whatever fails amid a
 * checkpoint ends the connection, since what follows in it is of no use any more.
 */
import { statfs } from 'node:fs/promises';
import type { Writable } from 'node:stream';
import { findCheckpoint } from '../checkpoint/checkpoints.js';
import type { Store } from '../checkpoint/store.js';
import { CkptError } from '../errors.js';
import { Connection } from './connection.js';
import { listStore } from './listing.js';
import { violation } from './messages.js';
import { serveOpened } from './open_parcel.js';
import { pack, type Parcel } from './parcel.js';
import { receiveParcel } from './receive.js';
import { forgetIncoming, removeListed } from './removal.js';
import { Reception } from './reception.js';
import { sendParcel } from './send.js';
import { Sources } from './sources.js';

/** Without a byte, or a ping, for so long the other side is gone: nothing may stay locked for it. */
export const idleLimitMs = 20_000;

export interface ServeOptions {
  idleMs?: number;
  /** False: nothing is removed, whoever asks for it. */
  remove?: boolean;
}

/**
 * Serves a store over a pair of streams; rejects with what ended it early, the opening of the store included, which
 * the other side has been told.
 */
export async function serve(
  openStore: () => Promise<Store>,
  readable: AsyncIterable<Buffer>,
  writable: Writable,
  options: ServeOptions = {},
): Promise<void> {
  const connection = new Connection(readable, writable, { idleMs: options.idleMs ?? idleLimitMs });
  try {
    const store = await openStore().catch(async (error: unknown) => {
      await connection.greet(); // only then an error can be told
      throw error;
    });
    const { bavail, bsize } = await statfs(store.root);
    await connection.greet({ store: store.root, freeBytes: bavail * bsize });
    while (await serveNext(connection, store, options)) {
      // The next request.
    }
  } catch (error) {
    await connection.fail(error);
    throw error;
  } finally {
    connection.close();
  }
}

/** False when the other side has ended. */
async function serveNext(
  connection: Connection,
  store: Store,
  { remove = true }: ServeOptions,
): Promise<boolean> {
  const request = await connection.receive();
  if (request === undefined) return false;
  switch (request.type) {
    case 'list':
      await connection.send({
        type: 'checkpoints',
        checkpoints: await listStore(store, request.vm),
      });
      return true;
    case 'offer': {
      const begun = await orRefuse(connection, () => Reception.begin(store, request));
      if (begun) await receiveParcel(connection, begun.value);
      return true;
    }
    case 'fetch': {
      const packed = await orRefuse(connection, () => packOf(store, request));
      if (packed) await sendParcel(connection, packed.value);
      return true;
    }
    case 'open': {
      const opened = await orRefuse(connection, async () => {
        const parcel = await packOf(store, request);
        return { parcel, sources: await Sources.openAll(parcel) };
      });
      if (opened) await serveOpened(connection, opened.value.parcel, opened.value.sources);
      return true;
    }
    case 'remove': {
      const { vm, name, id } = request;
      const removed = await orRefuse(connection, async () => {
        if (remove) return removeListed(store, vm, name, id);
        throw new CkptError('UNSUPPORTED', `${store.root} removes nothing (--no-remove)`);
      });
      if (removed) await connection.send({ type: 'removed' });
      return true;
    }
    case 'forget': {
      const forgotten = await orRefuse(connection, () => forgetIncoming(store, request.vm));
      if (forgotten) await connection.send({ type: 'forgotten' });
      return true;
    }
    default:
      throw violation(`${request.type} is no request`);
  }
}

async function packOf(store: Store, of: { vm: string; name: string }): Promise<Parcel> {
  const { directory } = await findCheckpoint(store, `${of.vm}@${of.name}`);
  return pack(directory);
}

/** Does what is asked for; undefined when that failed, which the other side has been told. */
async function orRefuse<T>(
  connection: Connection,
  work: () => Promise<T>,
): Promise<{ value: T } | undefined> {
  try {
    return { value: await work() };
  } catch (error) {
    await connection.fail(error);
    return undefined;
  }
}
