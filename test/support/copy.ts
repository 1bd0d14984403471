/** Copies a source to a file, whole. */
import { open } from 'node:fs/promises';
import type { ByteSource } from '../../src/native.js';

const pieceBytes = 4 << 20;

export async function writeAll(source: ByteSource, path: string): Promise<void> {
  const file = await open(path, 'w');
  try {
    const piece = Buffer.alloc(pieceBytes);
    for (let position = 0; position < source.bytes;) {
      const length = await source.read(piece, position);
      await file.write(piece, 0, length, position);
      position += length;
    }
  } finally {
    await file.close();
  }
}
