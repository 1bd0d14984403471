/**
 * The far side of a checkpoint that is read here and there (far_checkpoint.ts), by a VM that runs from it before all of
 * it has been copied.
 *
 * Its files were opened before it was offered: whoever removes or compacts the checkpoint meanwhile takes nothing away.
 */
import { checksum, pageBuffer } from '../native.js';
import type { Connection } from './connection.js';
import { maxReadBytes, violation } from './messages.js';
import { offerOf, type Parcel, refuseChanged } from './parcel.js';
import { give, readPiece, sumPrefix } from './pump.js';
import type { Sources } from './sources.js';

/** Offers the parcel and answers what is asked of its files, in order, until the other side closes it or ends. */
export async function serveOpened(
  connection: Connection,
  parcel: Parcel,
  opened: Sources,
): Promise<void> {
  await using sources = opened;
  await connection.send(offerOf(parcel));
  const buffer = pageBuffer(maxReadBytes);
  const sink = {
    data: (bytes: Buffer) => connection.data(bytes),
    zeros: (count: number) => connection.zeros(count),
  };
  for (;;) {
    const request = await connection.receive();
    if (request === undefined) return;
    switch (request.type) {
      case 'read': {
        const { index, offset, bytes } = request;
        const { packed, file } = sources.of(index);
        if (offset + bytes > packed.file.bytes) throw violation('a read beyond the end of a file');
        const piece = await readPiece(file, buffer.subarray(0, bytes), offset);
        if (packed.outside) refuseChanged(packed.source, packed.outside);
        await give(piece, sink);
        break;
      }
      case 'sum': {
        const { packed, file } = sources.of(request.index);
        const sum = checksum();
        await sumPrefix(file, packed.file.bytes, sum);
        if (packed.outside) refuseChanged(packed.source, packed.outside);
        await connection.send({ type: 'end', checksum: sum.digest() });
        break;
      }
      case 'close':
        return;
      default:
        throw violation(`${request.type} of an open checkpoint`);
    }
  }
}
