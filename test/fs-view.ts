/** A view for tests: VMs over a real directory, with sources whose every byte is known. */
import { link, mkdir, open, symlink, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { checkName } from '../src/checkpoint/names.js';
import { CkptError } from '../src/errors.js';
import { FsError } from '../src/fs/errno.js';
import { bufferSource } from '../src/fs/value.js';
import type {
  CheckpointOutline,
  CheckpointView,
  DiskFile,
  SavingView,
  SourceFile,
  StoreView,
  VmView,
} from '../src/fs/view.js';
import type { ByteSource } from '../src/native.js';

export const memoryBytes = 4 << 20;
/** Not a multiple of a page. */
export const diskBytes = (1 << 20) + 512;
/** From here on the disk `bad` is damaged. */
export const damageStart = 512 << 10;
export const segment = patternBytes(99, 0, 70_000);
/** A stored file with data at its start and in the middle, and holes for the rest. */
export const sparse = { bytes: 8 << 20, dataAt: [0, 4 << 20], dataBytes: 64 << 10 };
/** How long each read of the disk `slow` takes. */
export const slowMs = 300;

/** Byte i of every source is the low byte of a hash of `seed` and the word that i lies in. */
function patternByte(seed: number, i: number): number {
  return Math.imul((i >>> 2) + seed * 7919 + 1, 0x9e3779b1) >>> ((i & 3) * 8);
}

export function patternBytes(seed: number, position: number, bytes: number): Buffer {
  const buffer = Buffer.allocUnsafe(bytes);
  for (let i = 0; i < bytes; i++) buffer[i] = patternByte(seed, position + i) & 0xff;
  return buffer;
}

/** Counts of what was opened, closed and flushed, to see that sources are shared and given back. */
export interface Counts {
  opened: number;
  closed: number;
  flushed: number;
}

export const noCounts = (): Counts => ({ opened: 0, closed: 0, flushed: 0 });

function counted(counts: Counts, bytes: number, read: ByteSource['read']): SourceFile {
  return {
    bytes,
    open() {
      counts.opened++;
      const close = () => {
        counts.closed++;
      };
      return Promise.resolve({ bytes, read, close });
    },
  };
}

function pattern(counts: Counts, seed: number, bytes: number): SourceFile {
  return counted(counts, bytes, async (into, position) => {
    const length = Math.max(0, Math.min(into.length, bytes - position));
    // Answers come out of order, as those of a thread pool do.
    await new Promise((resolve) => setTimeout(resolve, position % 3));
    into.set(patternBytes(seed, position, length));
    return length;
  });
}

function slow(counts: Counts): SourceFile {
  return counted(counts, 4096, async (into) => {
    await new Promise((resolve) => setTimeout(resolve, slowMs));
    into.fill(7);
    return into.length;
  });
}

function damaged(counts: Counts): SourceFile {
  return counted(counts, diskBytes, (into, position) => {
    const length = Math.min(into.length, damageStart - position);
    if (length <= 0) {
      const why = 'block 7 of 00000001.redo: checksum differs';
      return Promise.reject(new CkptError('DAMAGED', why, { block: 7 }));
    }
    into.set(patternBytes(3, position, length));
    return Promise.resolve(length);
  });
}

/** A disk whose overlay is a copy in memory. */
function overlaid(counts: Counts, disk: SourceFile): DiskFile {
  return {
    ...disk,
    async openOverlay() {
      const copy = new Uint8Array(disk.bytes);
      const source = await disk.open();
      for (let done = 0; done < copy.length;) done += await source.read(copy.subarray(done), done);
      return {
        ...bufferSource(copy),
        native: undefined, // writes are counted here
        write: (from, position) => Promise.resolve(copy.set(from, position)),
        flush() {
          counts.flushed++;
          return Promise.resolve();
        },
      };
    },
  };
}

interface TestCheckpoint {
  outline: CheckpointOutline;
  view: CheckpointView;
}

function checkpoint(root: string, counts: Counts, name: string, seed: number): TestCheckpoint {
  const manifest = Buffer.from(`{"name":"${name}"}\n`);
  const text = (contents: Buffer) =>
    counted(counts, contents.length, (into, position) =>
      bufferSource(contents).read(into, position),
    );
  const id = String(seed).repeat(32);
  const outline = {
    name,
    createdAt: new Date(Date.UTC(2026, 10, 20, 10, 15, seed, 250)),
    id,
    ...(seed === 2 ? { parentId: '1'.repeat(32) } : {}),
    checksum: `sha256:${String(seed).repeat(64)}`,
  };
  const view = {
    id,
    checksum: outline.checksum,
    directory: join(root, 'vms/alpha/checkpoints', name),
    manifest: text(manifest),
    deviceState: text(Buffer.from('{}\n')),
    memory: pattern(counts, seed, memoryBytes),
    memoryElf: pattern(counts, seed + 30, memoryBytes + 65_536),
    disks: new Map([
      ['vda', overlaid(counts, pattern(counts, seed + 10, diskBytes))],
      ['slow', overlaid(counts, slow(counts))],
      ['bad', overlaid(counts, damaged(counts))],
      [
        'stuck',
        overlaid(
          counts,
          counted(counts, diskBytes, () => new Promise(() => undefined)),
        ),
      ],
    ]),
  };
  return { outline, view };
}

/** Lays the files of the test store out under `root`. */
export async function makeStore(root: string): Promise<void> {
  const vm = join(root, 'vms/alpha');
  for (const name of ['one', 'two']) {
    await mkdir(join(vm, 'checkpoints', name, 'disks/vda'), { recursive: true });
    await writeFile(join(vm, 'checkpoints', name, 'manifest.json'), `{"name":"${name}"}\n`);
  }
  await writeFile(join(vm, 'checkpoints/one/memory.hot'), segment);
  await link(join(vm, 'checkpoints/one/memory.hot'), join(vm, 'checkpoints/two/memory.hot'));
  await symlink('/etc/passwd', join(vm, 'checkpoints/two/escape'));
  const path = join(vm, 'checkpoints/two/sparse');
  const file = await open(path, 'w');
  for (const at of sparse.dataAt)
    await file.write(patternBytes(98, at, sparse.dataBytes), 0, sparse.dataBytes, at);
  await file.close();
  await truncate(path, sparse.bytes);
  await writeFile(join(vm, 'checkpoints/one/disks/vda/00000001.redo'), 'redo');
  await writeFile(join(vm, 'config.json'), '{"name":"alpha"}\n');
  await writeFile(join(vm, 'console.log'), 'hello\n');
  await writeFile(join(vm, 'parent.raw'), 'parent');
}

/** A view whose checkpoints come and go. */
export interface ChangingView extends StoreView {
  /** A checkpoint of alpha whose contents are those of `seed`. */
  add(name: string, seed: number): void;
  remove(name: string): void;
  /** What its status says from now on. */
  state(text: string): void;
}

/** The view over makeStore()'s directory; with `live`, alpha is live and its RAM differs at every read. */
export function makeView(
  root: string,
  options: { live?: boolean; counts?: Counts; saving?: () => SavingView | undefined } = {},
): ChangingView {
  const counts = options.counts ?? noCounts();
  const checkpoints = [checkpoint(root, counts, 'one', 1), checkpoint(root, counts, 'two', 2)];
  const find = (name: string) => checkpoints.find((candidate) => candidate.outline.name === name);
  const remove = (name: string) => {
    const at = checkpoints.findIndex((candidate) => candidate.outline.name === name);
    if (at >= 0) checkpoints.splice(at, 1);
  };
  const listeners = new Set<(directory: string, name: string) => void>();
  const changed = (name: string) => {
    for (const listener of listeners) listener('/vms/alpha/checkpoints', name);
  };
  let reads = 0;
  let asked = 0;
  let state = 'stopped';
  const now = counted(counts, memoryBytes, (into) => {
    into.fill(++reads & 0xff);
    return Promise.resolve(into.length);
  });
  const file = (name: string) => ({ name, path: join(root, 'vms/alpha', name) });
  const alpha: VmView = {
    createdAt: new Date(Date.UTC(2026, 10, 20)),
    status: () => Promise.resolve({ vm: 'alpha', state, asked: 10 ** ++asked }),
    files: [file('config.json'), file('console.log'), file('missing.txt')],
    layers: () =>
      Promise.resolve(
        new Map([['vda', [{ name: 'parent', path: join(root, 'vms/alpha/parent.raw') }]]]),
      ),
    checkpointNames: () =>
      Promise.resolve([...checkpoints.map(({ outline }) => outline.name).reverse(), 'broken']),
    outlines: () => Promise.resolve(checkpoints.map(({ outline }) => outline)),
    outline: (name) =>
      Promise.resolve(name === 'broken' ? { name, createdAt: new Date(0) } : find(name)?.outline),
    checkpoint(name) {
      if (name === 'broken') {
        return Promise.reject(new CkptError('DAMAGED', 'manifest.json is damaged'));
      }
      return Promise.resolve(find(name)?.view);
    },
    async takeCheckpoint(name) {
      if (name === 'late') await new Promise((resolve) => setTimeout(resolve, 3000));
      if (name === 'down') throw new FsError('EHOSTDOWN');
      if (name === 'full') throw new CkptError('NO_SPACE', 'the filesystem is full');
      checkName('checkpoint', name);
      checkpoints.push(checkpoint(root, counts, name, 3));
      changed(name);
    },
    removeCheckpoint(name) {
      const found = find(name);
      if (name === 'two') return Promise.reject(new CkptError('BUSY', 'VM beta still loads it'));
      if (!found) return Promise.reject(new CkptError('NOT_FOUND', 'no such checkpoint'));
      checkpoints.splice(checkpoints.indexOf(found), 1);
      changed(name);
      return Promise.resolve();
    },
    ...(options.live
      ? {
          live: {
            memory: now,
            disks: new Map([['vda', pattern(counts, 20, diskBytes)]]),
            saving: options.saving ?? (() => undefined),
          },
        }
      : {}),
  };
  return {
    root,
    live: options.live ?? false,
    vmNames: () => Promise.resolve(['alpha']),
    vm: (name) => Promise.resolve(name === 'alpha' ? alpha : undefined),
    watch(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    add(name, seed) {
      remove(name);
      checkpoints.push(checkpoint(root, counts, name, seed));
      changed(name);
    },
    remove(name) {
      remove(name);
      changed(name);
    },
    state(text) {
      state = text;
    },
  };
}
