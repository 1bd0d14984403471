/** A store that is gone after its use, for what is only tried. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { attempt } from '../checkpoint/files.js';
import { Store } from '../checkpoint/store.js';

export async function withScratchStore<T>(work: (store: Store) => Promise<T>): Promise<T> {
  const directory = await attempt(`cannot make a store in ${tmpdir()}`, () =>
    mkdtemp(join(tmpdir(), 'ckptfs-recover-')),
  );
  try {
    return await work(await Store.open(join(directory, 'store'), { create: true }));
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}
