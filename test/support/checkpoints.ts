/**
 * Checkpoints without a VM, for tests of the store: files of the right names with small contents, and a
 * stand-in for the addon's verification that compares a checksum written beside the contents.
 */
import { createHash } from 'node:crypto';
import { mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import type { Test } from 'tap';
import type { Manifest, ManifestDraft } from '../../src/checkpoint/manifest.js';
import { Publication } from '../../src/checkpoint/publish.js';
import { Store } from '../../src/checkpoint/store.js';
import type { VerifyNative } from '../../src/checkpoint/verify.js';

/** Contents that carry their own SHA-256 in the first 64 bytes. */
export function sealed(text: string): string {
  return createHash('sha256').update(text).digest('hex') + text;
}

async function isIntact(path: string): Promise<boolean> {
  const contents = await readFile(path, 'utf8');
  return sealed(contents.slice(64)) === contents;
}

/** Checks what {@link writeCheckpoint} wrote. */
export const fakeNative: VerifyNative = {
  async verifyMemoryImage(directory) {
    const damage = [];
    for (const file of (await readdir(directory)).filter((name) => /\.(hot|cold)$/.test(name))) {
      if (!(await isIntact(join(directory, file))))
        damage.push({ file, what: 'its checksum differs' });
    }
    return damage;
  },
  async verifyRedoLog(path, bytes) {
    const whole = (await stat(path)).size === bytes && (await isIntact(path));
    return whole ? [] : [{ file: path, what: 'its checksum differs' }];
  },
  fileIdentity: () => ({ bytes: 4096, mtimeNs: '1' }),
};

export function draft(publication: { id: string; name: string; vm: string }): ManifestDraft {
  const { id, name, vm } = publication;
  return {
    id,
    name,
    vm,
    createdAt: new Date().toISOString(),
    parentId: null,
    geometry: { pageBytes: 4096, pagesPerBlock: 8, blocksPerIoBlock: 8 },
    memoryBytes: 1 << 20,
    codec: 'lz4',
    cpus: 1,
    guestTicks: '12345678901234567890',
    config: { kernel: '/k', append: 'quiet "ü" \\', disks: [] },
    disks: [
      {
        id: 'vda',
        access: 'redo',
        parent: '/parent.img',
        parentIdentity: { bytes: 4096, mtimeNs: '1' },
        redo: ['disks/vda/00000001.redo'],
      },
    ],
    stats: {
      pauseUs: 1234.5,
      phasesUs: { quiesce: 1, arm: 2, state: 3, switch: 4 },
      totalUs: 5000,
      storedBytes: 100,
      blocks: { vcpu: 1, background: 2, zero: 3, parent: 0, duplicate: 0 },
      faults: 1,
    },
  };
}

/** Writes the files of a checkpoint, `padding` bytes in each segment. */
export async function fill(publication: Publication, padding = 10): Promise<void> {
  const { id, directory } = publication;
  await publication.write('device-state.json', '{"cpu":[]}');
  await publication.write('memory.map', `${id} map`);
  await writeFile(join(directory, `${id}.hot`), sealed('hot'.padEnd(padding, '.')));
  await writeFile(join(directory, `${id}.cold`), sealed('cold'.padEnd(padding, '.')));
}

/** A sealed redo log among the live ones of a VM. */
export async function makeRedo(store: Store, vm: string): Promise<string> {
  const path = join(store.diskDirectory(vm, 'vda'), '00000001.redo');
  await mkdir(dirname(path), { recursive: true });
  await writeFile(path, sealed('redo'));
  return path;
}

/** Publishes one checkpoint of a VM that has a redo log (makeRedo). */
export async function publish(
  store: Store,
  vm: string,
  name: string,
  changes: Partial<ManifestDraft> = {},
): Promise<Manifest> {
  const publication = await Publication.begin(store, vm, name);
  await fill(publication);
  await publication.link(
    join(store.diskDirectory(vm, 'vda'), '00000001.redo'),
    'disks/vda/00000001.redo',
  );
  return publication.commit({ ...draft(publication), ...changes });
}

/** A directory of a test's own, gone with it. */
export async function scratch(t: Test): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'ckptfs-store-'));
  t.teardown(() => rm(directory, { recursive: true, force: true }));
  return directory;
}

/** A store with VM `vm1` that has a redo log. */
export async function storeWithVm(t: Test, root?: string): Promise<Store> {
  const store = await Store.open(join(root ?? (await scratch(t)), 'store'), { create: true });
  await store.createVm('vm1');
  await makeRedo(store, 'vm1');
  return store;
}
