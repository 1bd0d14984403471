/** Files of random bytes, which nothing compresses. */
import { randomFillSync } from 'node:crypto';
import { open } from 'node:fs/promises';

const pieceBytes = 2 ** 20;

/** Makes a file of whole MiB; EEXIST where there is one. */
export async function makeRandomFile(path: string, bytes: number): Promise<void> {
  const file = await open(path, 'wx');
  try {
    const piece = Buffer.alloc(pieceBytes);
    for (let done = 0; done < bytes; done += piece.length) await file.write(randomFillSync(piece));
  } finally {
    await file.close();
  }
}
