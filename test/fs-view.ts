/** A view for tests: VMs over a real directory, with sources whose every byte is known. */
import { link, mkdir, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { CkptError } from '../src/errors.js';
import { bufferSource } from '../src/fs/value.js';
import type { CheckpointView, SavingView, SourceFile, StoreView, VmView } from '../src/fs/view.js';
import type { ByteSource } from '../src/native.js';

export const memoryBytes = 4 << 20;
/** Not a multiple of a page. */
export const diskBytes = (1 << 20) + 512;
/** From here on the disk `bad` is damaged. */
export const damageStart = 512 << 10;
export const segment = patternBytes(99, 0, 70_000);

/** Byte i of every source is the low byte of a hash of `seed` and the word that i lies in. */
function patternByte(seed: number, i: number): number {
  return Math.imul((i >>> 2) + seed * 7919 + 1, 0x9e3779b1) >>> ((i & 3) * 8);
}

export function patternBytes(seed: number, position: number, bytes: number): Buffer {
  const buffer = Buffer.allocUnsafe(bytes);
  for (let i = 0; i < bytes; i++) buffer[i] = patternByte(seed, position + i) & 0xff;
  return buffer;
}

/** Counts of what was opened and closed, to see that sources are shared and given back. */
export interface Counts {
  opened: number;
  closed: number;
}

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

function checkpoint(root: string, counts: Counts, name: string, seed: number): CheckpointView {
  const manifest = Buffer.from(`{"name":"${name}"}\n`);
  const text = (contents: Buffer) =>
    counted(counts, contents.length, (into, position) =>
      bufferSource(contents).read(into, position),
    );
  return {
    name,
    id: String(seed).repeat(32),
    ...(seed === 2 ? { parentId: '1'.repeat(32) } : {}),
    checksum: `sha256:${String(seed).repeat(64)}`,
    createdAt: new Date(Date.UTC(2026, 10, 20, 10, 15, seed, 250)),
    directory: join(root, 'vms/alpha/checkpoints', name),
    manifest: text(manifest),
    deviceState: text(Buffer.from('{}\n')),
    memory: pattern(counts, seed, memoryBytes),
    disks: new Map([
      ['vda', pattern(counts, seed + 10, diskBytes)],
      ['bad', damaged(counts)],
      ['stuck', counted(counts, diskBytes, () => new Promise(() => undefined))],
    ]),
  };
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
  await writeFile(join(vm, 'checkpoints/one/disks/vda/00000001.redo'), 'redo');
  await writeFile(join(vm, 'config.json'), '{"name":"alpha"}\n');
  await writeFile(join(vm, 'console.log'), 'hello\n');
  await writeFile(join(vm, 'parent.raw'), 'parent');
}

/** The view over makeStore()'s directory; with `live`, alpha is live and its RAM differs at every read. */
export function makeView(
  root: string,
  options: { live?: boolean; counts?: Counts; saving?: () => SavingView | undefined } = {},
): StoreView {
  const counts = options.counts ?? { opened: 0, closed: 0 };
  const checkpoints = [checkpoint(root, counts, 'one', 1), checkpoint(root, counts, 'two', 2)];
  let reads = 0;
  let asked = 0;
  const now = counted(counts, memoryBytes, (into) => {
    into.fill(++reads & 0xff);
    return Promise.resolve(into.length);
  });
  const file = (name: string) => ({ name, path: join(root, 'vms/alpha', name) });
  const alpha: VmView = {
    createdAt: new Date(Date.UTC(2026, 10, 20)),
    status: () => Promise.resolve({ vm: 'alpha', state: 'stopped', asked: 10 ** ++asked }),
    files: [file('config.json'), file('console.log'), file('missing.txt')],
    layers: () =>
      Promise.resolve(
        new Map([['vda', [{ name: 'parent', path: join(root, 'vms/alpha/parent.raw') }]]]),
      ),
    checkpointNames: () => Promise.resolve(['two', 'broken', 'one']),
    checkpoint(name) {
      if (name === 'broken') {
        return Promise.reject(new CkptError('DAMAGED', 'manifest.json is damaged'));
      }
      return Promise.resolve(checkpoints.find((candidate) => candidate.name === name));
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
  };
}
