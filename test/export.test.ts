/** Export of a source as a file: contents, holes, names, and nothing left of what has failed. */
import { createHash } from 'node:crypto';
import { readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import t from 'tap';
import { exportFile, readThrough } from '../src/checkpoint/export.js';
import { CkptError } from '../src/errors.js';
import type { ByteSource } from '../src/native.js';
import { temporaryDirectory } from './support/guests.js';

const mib = 1 << 20;

/** Mostly zeros; text at the places that are easy to get wrong. */
function contents(bytes: number): Buffer {
  const buffer = Buffer.alloc(bytes);
  for (const at of [0, 65_535, 65_536 * 3, 4 * mib - 1, 4 * mib, bytes - 1]) {
    if (at < bytes) buffer[at] = 1 + (at % 255);
  }
  createHash('sha256')
    .update('x')
    .digest()
    .copy(buffer, 5 * mib);
  return buffer;
}

/** Answers short now and then; fails from `failAt` on. */
function sourceOf(buffer: Buffer, failAt = Infinity): ByteSource {
  return {
    bytes: buffer.length,
    read(into, position) {
      if (position >= failAt)
        return Promise.reject(new CkptError('DAMAGED', 'block 7; restore it'));
      const piece = buffer.subarray(position, position + Math.min(into.length, 3 * mib + 511));
      into.set(piece);
      return Promise.resolve(piece.length);
    },
    close: () => undefined,
  };
}

t.test('a file with the contents, and holes', async (t) => {
  const { path: directory, remove } = await temporaryDirectory();
  t.teardown(remove);
  for (const bytes of [0, 1, 4 * mib, 9 * mib + 17]) {
    const path = join(directory, String(bytes));
    const buffer = contents(bytes);
    const seen: number[] = [];
    await exportFile(sourceOf(buffer), path, { onProgress: (done) => seen.push(done) });
    t.ok(buffer.equals(await readFile(path)), `${bytes} bytes`);
    t.equal((await stat(path)).mode & 0o777, 0o600, 'private, as memory is');
    if (bytes > 0) t.equal(seen.at(-1), bytes);
  }
  const { size, blocks } = await stat(join(directory, String(9 * mib + 17)));
  t.ok(blocks * 512 < size / 4, `${blocks} blocks of ${size} bytes`);
  t.equal((await readdir(directory)).length, 4, 'no temporary file is left');
});

t.test('a file that is there is kept, unless it is to be replaced', async (t) => {
  const { path: directory, remove } = await temporaryDirectory();
  t.teardown(remove);
  const path = join(directory, 'f');
  await writeFile(path, 'mine');
  const source = sourceOf(contents(mib));
  await t.rejects(exportFile(source, path), { code: 'EXISTS', message: /--force/ });
  t.equal(await readFile(path, 'utf8'), 'mine');
  await exportFile(source, path, { replace: true });
  t.equal((await stat(path)).size, mib);
  const late = join(directory, 'late');
  const slow = sourceOf(contents(mib));
  const { read } = slow;
  slow.read = async (into, position) => {
    await writeFile(late, 'mine');
    return read(into, position);
  };
  await t.rejects(exportFile(slow, late), { code: 'EXISTS' }, 'made meanwhile');
  t.equal(await readFile(late, 'utf8'), 'mine');
  t.same((await readdir(directory)).sort(), ['f', 'late']);
});

t.test('nothing is left of what failed or was cancelled', async (t) => {
  const { path: directory, remove } = await temporaryDirectory();
  t.teardown(remove);
  const path = join(directory, 'f');
  const buffer = contents(9 * mib);
  await t.rejects(exportFile(sourceOf(buffer, 4 * mib), path), { code: 'DAMAGED' });
  const abort = new AbortController();
  const cancelled = exportFile(sourceOf(buffer), path, {
    signal: abort.signal,
    onProgress: () => abort.abort(),
  });
  await t.rejects(cancelled, { code: 'CANCELLED' });
  await t.rejects(exportFile(sourceOf(buffer), join(path, 'x')), { code: 'NOT_FOUND' });
  t.same(await readdir(directory), []);
  const short = { ...sourceOf(buffer), read: () => Promise.resolve(0) };
  await t.rejects(
    readThrough(short, () => Promise.resolve()),
    { code: 'IO' },
  );
});
