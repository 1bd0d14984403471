/** Chains of incremental checkpoints with known contents, without a VM. */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Publication } from '../../src/checkpoint/publish.js';
import type { Store } from '../../src/checkpoint/store.js';
import { type ByteSource, openMemoryImage } from '../../src/native.js';
import { draft } from './checkpoints.js';

const root = fileURLToPath(new URL('../../..', import.meta.url));
const blockBytes = 8 * 4096;

/** The SHA-256 of all that a source gives; closes it. */
export async function sourceHash(source: ByteSource): Promise<string> {
  try {
    const hash = createHash('sha256');
    const piece = Buffer.alloc(1 << 20);
    for (let position = 0; position < source.bytes;) {
      const length = await source.read(piece, position);
      hash.update(piece.subarray(0, length));
      position += length;
    }
    return hash.digest('hex');
  } finally {
    source.close();
  }
}

/** The SHA-256 of all memory that a checkpoint directory holds. */
export async function memoryHash(directory: string): Promise<string> {
  return sourceHash(await openMemoryImage(directory));
}

/**
 * Publishes a chain of checkpoints, each an increment on the one before, with a third of `blocks` memory
 * blocks changed. Resolves with what each holds, by name.
 */
export async function publishChain(
  store: Store,
  vm: string,
  names: string[],
  options: { seed: number; blocks: number },
): Promise<Map<string, string>> {
  const publications = [];
  for (const name of names) publications.push(await Publication.begin(store, vm, name));
  execFileSync('make', ['-s', '-C', join(root, 'native'), 'image-chain']);
  execFileSync(join(root, 'build/native-test/plain/image-chain'), [
    String(options.seed),
    String(options.blocks),
    ...publications.map(({ directory }) => directory),
  ]);
  const hashes = new Map<string, string>();
  let createdAtMs = Date.now();
  for (const publication of publications) {
    await publication.write('device-state.json', '{"cpu":[]}');
    await publication.commit({
      ...draft(publication),
      createdAt: new Date(createdAtMs++).toISOString(),
      memoryBytes: options.blocks * blockBytes,
      disks: [],
    });
    const directory = store.checkpointDirectory(vm, publication.name);
    hashes.set(publication.name, await memoryHash(directory));
  }
  return hashes;
}
