/** Files that are made by several attempts: disks that are flattened, cut short at any time, and gone on with. */
import { createHash } from 'node:crypto';
import { link, mkdir, open, readdir, readFile, rename, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import t, { type Test } from 'tap';
import { flattenDisk } from '../src/checkpoint/disk_copy.js';
import { exportFile } from '../src/checkpoint/export.js';
import { PartialFile } from '../src/checkpoint/new_file.js';
import { CkptError } from '../src/errors.js';
import type { ByteSource } from '../src/native.js';
import { start, withStore } from './support/cli.js';
import { temporaryDirectory } from './support/guests.js';
import { dd, sumOf, withDisk } from './support/vm_disk.js';

t.setTimeout(600_000);

const mib = 2 ** 20;
const done = { status: 0 };

/** Every block of 64 KiB with contents of its own, some of them holes. */
function contents(bytes: number, seed: number): Buffer {
  const buffer = Buffer.alloc(bytes);
  for (let at = 0; at < bytes; at += 65_536) {
    if ((at >> 16) % 3 === 1) continue;
    const block = createHash('sha256').update(`${seed} ${at}`).digest();
    buffer.fill(block, at, at + 65_536);
  }
  return buffer;
}

/** Fails from `failAt` on; tells where it was read from. */
function sourceOf(buffer: Buffer, failAt = Infinity): ByteSource & { reads: number[] } {
  const reads: number[] = [];
  return {
    bytes: buffer.length,
    reads,
    read(into, position) {
      reads.push(position);
      if (position >= failAt) return Promise.reject(new CkptError('NO_SPACE', 'full; free some'));
      const piece = buffer.subarray(position, position + into.length);
      into.set(piece);
      return Promise.resolve(piece.length);
    },
    close: () => undefined,
  };
}

async function target(t: Test) {
  const { path: directory, remove } = await temporaryDirectory();
  t.teardown(remove);
  return { directory, path: join(directory, 'f'), partial: join(directory, 'f.partial') };
}

t.test('an attempt goes on where the one before was', async (t) => {
  const { directory, path, partial } = await target(t);
  const buffer = contents(100 * mib, 1);
  const resume = { source: 'a' };
  const failing = sourceOf(buffer, 72 * mib);
  await t.rejects(exportFile(failing, path, { resume }), {
    code: 'NO_SPACE',
    message: /full; free some; what has been copied is in .*f\.partial: .*--restart/,
    data: { keptBytes: 72 * mib },
  });
  t.same(await readdir(directory), ['f.partial']);
  const next = sourceOf(buffer, 80 * mib);
  await t.rejects(exportFile(next, path, { resume }), {
    code: 'NO_SPACE',
    data: { keptBytes: 80 * mib },
  });
  t.equal(next.reads[0], 72 * mib);

  const last = sourceOf(buffer);
  const seen: number[] = [];
  const onProgress = (doneBytes: number) => seen.push(doneBytes);
  t.equal(await exportFile(last, path, { resume, onProgress }), 80 * mib);
  t.equal(last.reads[0], 80 * mib, 'what is there is not read again');
  t.same([seen[0], seen.at(-1)], [84 * mib, 100 * mib]);
  t.ok(buffer.equals(await readFile(path)));
  const { size, blocks, mode } = await stat(path);
  t.ok(blocks * 512 < size * 0.7, 'with its holes');
  t.equal(mode & 0o777, 0o600);
  t.same(await readdir(directory), ['f'], `nothing is left at ${partial}`);
});

t.test('what is there is used only if it is known to be of the same source', async (t) => {
  const { directory, path, partial } = await target(t);
  const [one, other] = [contents(48 * mib, 1), contents(48 * mib, 2)];
  const state = join(partial, 'state.json');
  const cut = () =>
    t.rejects(exportFile(sourceOf(one, 40 * mib), path, { resume: { source: 'one' } }), {
      code: 'NO_SPACE',
      data: { keptBytes: 40 * mib },
    });
  const whole = async (buffer: Buffer, source: string, expected: number, restart = false) => {
    const options = { resume: { source, restart }, replace: true };
    t.equal(await exportFile(sourceOf(buffer), path, options), expected);
    t.ok(buffer.equals(await readFile(path)));
    t.same(
      (await readdir(directory)).filter((name) => /^f($|\.)/.test(name)),
      ['f'],
    );
  };
  await t.rejects(exportFile(sourceOf(one, 0), path, { resume: { source: 'one' } }), {
    code: 'NO_SPACE',
  });
  t.same(await readdir(directory), [], 'nothing copied, nothing left');
  await cut();
  await whole(one, 'one', 40 * mib);
  await rename(path, join(directory, 'elsewhere'));
  await cut();
  await whole(other, 'other', 0);
  await rename(path, join(directory, 'unhurt'));
  await cut();
  await whole(one, 'one', 0, true);
  await rename(path, join(directory, 'first'));

  for (const damage of ['', '{"format": 2}', 'x'.repeat(100_000)]) {
    await cut();
    await writeFile(state, damage);
    await whole(one, 'one', 0);
    await rename(path, join(directory, 'first'));
  }
  // The source has another size; the data has another size; or it bears its name already.
  await cut();
  await whole(one.subarray(0, 44 * mib), 'one', 0);
  await rename(path, join(directory, 'first'));
  await cut();
  const data = await open(join(partial, 'data'), 'r+');
  await data.truncate(41 * mib);
  await data.close();
  await whole(one, 'one', 0);
  await rename(path, join(directory, 'first'));
  await cut();
  await link(join(partial, 'data'), join(directory, 'linked'));
  const linked = await sumOf(join(directory, 'linked'));
  await whole(other, 'other', 0);
  t.equal(await sumOf(join(directory, 'linked')), linked);
  t.ok(other.equals(await readFile(join(directory, 'unhurt'))));
  t.ok(one.equals(await readFile(join(directory, 'elsewhere'))));
});

t.test('one at a time, and nobody else’s files', async (t) => {
  const { directory, path, partial } = await target(t);
  const buffer = contents(36 * mib, 1);
  const resume = { source: 'a' };
  const slow = sourceOf(buffer);
  const { read } = slow;
  slow.read = async (into, position) => {
    if (position === 0) {
      await t.rejects(exportFile(sourceOf(buffer), path, { resume }), { code: 'BUSY' });
    }
    return read(into, position);
  };
  t.equal(await exportFile(slow, path, { resume }), 0);
  t.ok(buffer.equals(await readFile(path)));
  await t.rejects(exportFile(slow, path, { resume }), { code: 'EXISTS' });
  t.same(await readdir(directory), ['f']);

  await mkdir(partial);
  await writeFile(join(partial, 'mine'), 'mine');
  t.equal(await exportFile(sourceOf(buffer), path, { resume, replace: true }), 0);
  t.same(await readdir(partial), ['mine']);
  await writeFile(`${path}2.partial`, 'a file');
  await t.rejects(exportFile(sourceOf(buffer), `${path}2`, { resume }), CkptError);
  await t.rejects(PartialFile.open(join(directory, 'no/f'), { source: '', bytes: 1 }, false), {
    code: 'ENOENT',
  });
});

/** Starts `ckptfs disk flatten`, and kills it once some of it is safe. */
async function cutShort(
  store: Parameters<typeof start>[0],
  args: string[],
  path: string,
  signal: NodeJS.Signals,
) {
  const { child, finished } = start(store, ['disk', 'flatten', ...args, '-o', path]);
  const state = join(PartialFile.directoryOf(path), 'state.json');
  for (let safe = false; !safe && child.exitCode === null; await sleep(1)) {
    const text = await readFile(state, 'utf8').catch(() => '{}');
    safe = (JSON.parse(text) as { doneBytes?: number }).doneBytes !== undefined;
  }
  child.kill(signal);
  return finished;
}

t.test('a flatten that is killed or cancelled goes on', async (t) => {
  const cli = await withStore(t);
  const { ckptfs, store } = cli;
  const disk = await withDisk(t, cli, 'nonpersistent', 256 * mib);
  const shell = await disk.boot();
  await shell.run(dd(1, 0, 500));
  t.match(await ckptfs('checkpoint', 'vm', '--name', 'one'), done);
  await shell.run(dd(2, 60_000, 500));
  await ckptfs('stop', 'vm');
  const [expected, one] = [await disk.sum('vm'), await disk.sum('vm@one')];
  const path = join(disk.scratch, 'flat');

  for (const [signal, reference, sum] of [
    ['SIGKILL', 'vm', expected],
    ['SIGINT', 'vm@one', one],
  ] as const) {
    const { status, stderr } = await cutShort(store, [reference], path, signal);
    if (signal === 'SIGINT') {
      t.equal(status, 130);
      t.match(stderr, /flat\.partial: the same command goes on with it, --restart begins anew/);
    }
    t.same(
      (await readdir(disk.scratch)).filter((name) => name.startsWith('flat')),
      ['flat.partial'],
    );
    const again = await ckptfs('disk', 'flatten', reference, '-o', path, '--json');
    t.match(again.objects.at(-1), { type: 'result', path, bytes: 256 * mib });
    const resumed = Number(again.objects.at(-1)?.resumedBytes);
    t.ok(resumed >= 32 * mib && resumed < 256 * mib, `${resumed} bytes were there`);
    t.equal(await sumOf(path), sum);
    t.same(
      (await readdir(disk.scratch)).filter((name) => name.startsWith('flat')),
      ['flat'],
    );
    await rename(path, `${path}-${signal}`.replace('flat', 'done'));
  }

  // Restarted, and after the disk has changed, it begins anew.
  await cutShort(store, ['vm'], path, 'SIGKILL');
  const restarted = await ckptfs('disk', 'flatten', 'vm', '-o', path, '--restart', '--json');
  t.match(restarted.objects.at(-1), { resumedBytes: 0 });
  t.equal(await sumOf(path), expected);
  await cutShort(store, ['vm', '--force'], path, 'SIGKILL');
  t.equal(await sumOf(path), expected, 'what is to be replaced is there until then');
  const again = await disk.again();
  await again.run(dd(3, 100, 5));
  await ckptfs('stop', 'vm');
  const fresh = await ckptfs('disk', 'flatten', 'vm', '-o', path, '--force', '--json');
  t.match(fresh.objects.at(-1), { resumedBytes: 0 });
  t.equal(await sumOf(path), await disk.sum('vm'));
  t.not(await sumOf(path), expected);
});

t.test('a raw disk that was written to begins anew', async (t) => {
  const { directory, path } = await target(t);
  const raw = join(directory, 'raw');
  const buffer = contents(80 * mib, 1);
  await writeFile(raw, buffer);
  const cut = async () => {
    const abort = new AbortController();
    const onProgress = (doneBytes: number) => doneBytes >= 40 * mib && abort.abort();
    const flattened = flattenDisk({ parent: raw, redo: [] }, path, {
      onProgress,
      signal: abort.signal,
    });
    await t.rejects(flattened, { code: 'CANCELLED', data: { keptBytes: 40 * mib } });
  };
  await cut();
  t.same(await flattenDisk({ parent: raw, redo: [] }, path), {
    ...{ bytes: 80 * mib, resumedBytes: 40 * mib },
  });
  t.ok(buffer.equals(await readFile(path)));
  await rename(path, join(directory, 'done'));
  await cut();
  buffer[7] = 7;
  await writeFile(raw, buffer);
  t.equal((await flattenDisk({ parent: raw, redo: [] }, path)).resumedBytes, 0);
  t.ok(buffer.equals(await readFile(path)));
});
