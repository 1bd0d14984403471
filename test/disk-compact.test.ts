/**
 * Redo logs that are compacted, by the command: of stopped VMs and of running ones, beside checkpoints that show what
 * they showed, killed anywhere.
 */
import { createHash } from 'node:crypto';
import {
  copyFile,
  mkdir,
  readdir,
  readFile,
  rm,
  stat,
  truncate,
  writeFile,
} from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import t from 'tap';
import {
  currentLogs,
  isUnfinishedLog,
  logNumber,
  replacementName,
} from '../src/checkpoint/disk_names.js';
import { commitDisk, isSealedLog, type LogSurvey } from '../src/native.js';
import { layersOf } from '../src/vmm/disk_base.js';
import { chooseRuns } from '../src/vmm/disk_compact.js';
import { start, withStore } from './support/cli.js';
import type { GuestShell } from './support/shell.js';
import { dd, sumOf, withDisk } from './support/vm_disk.js';

t.setTimeout(600_000);

const mib = 2 ** 20;
const done = { status: 0 };
const seenIn = (text: string): string => /[0-9a-f]{64}/.exec(text)?.[0] ?? '';

t.test('names tell which logs replace others', (t) => {
  const [one, two, three] = ['00000001.redo', '00000002.redo', '00000003.redo'];
  t.equal(replacementName([`/x/${two}`]), two, 'one alone keeps its name');
  t.equal(replacementName([one, two]), '00000001-00000002.redo');
  t.equal(replacementName(['/x/00000001-00000002.redo', `/x/${three}`]), '00000001-00000003.redo');
  t.equal(replacementName(['00000001-00000002.redo']), '00000001-00000002.redo');
  t.equal(logNumber('/x/00000004-00000007.redo'), 7);
  t.same(currentLogs([three, 'base.json', one, two]), [one, two, three]);
  t.same(currentLogs([one, two, '00000001-00000002.redo', '00000002-00000003.redo.compacted']), [
    '00000001-00000002.redo',
  ]);
  t.same(currentLogs([one, '00000002-00000004.redo', '00000001-00000004.redo', '00000005.redo']), [
    '00000001-00000004.redo',
    '00000005.redo',
  ]);
  t.end();
});

t.test('which logs are compacted', (t) => {
  const log = (liveMib: number, ofMib = 10, sealed = true): LogSurvey => ({
    ...{ path: '', sealed, bytes: ofMib * mib, liveBytes: liveMib * mib },
    compactBytes: liveMib * mib,
  });
  const [dead, live] = [log(1), log(9)];
  const runs = (logs: LogSurvey[], options = {}): number[][] =>
    chooseRuns(logs, options).map(({ first, logs: count }) => [first, count]);
  t.same(runs([]), []);
  t.same(runs([live, dead, dead, live, dead]), [
    [1, 2],
    [4, 1],
  ]);
  t.same(runs([live, log(5)]), [], 'half is enough');
  t.same(runs([live, log(5)], { threshold: 60 }), [[1, 1]]);
  t.same(runs([live, live], { all: true }), [[0, 2]]);
  t.same(runs([dead, log(1, 10, false)]), [[0, 2]], 'the one that takes the writes too');
  t.same(runs([live, log(0, 1, false)]), [[1, 1]]);
  t.same(runs([live, log(0.1, 0.5, false)]), [], 'unless it is small');
  const empty = { ...log(0, 0, false), bytes: 512, compactBytes: 1536 };
  t.same(runs([dead, live, empty], { all: true }), [[0, 2]], 'or empty');
  const hidden = { ...log(1), compactBytes: 10 * mib };
  t.same(runs([live, hidden, live]), [], 'what it alone cannot lose');
  t.same(runs([{ ...live, compactBytes: live.bytes }, empty], { all: true }), []);
  for (const threshold of [0, 101, NaN]) {
    t.throws(() => runs([dead], { threshold }), { code: 'USAGE' });
  }
  t.end();
});

t.test('the disk of a stopped VM', async (t) => {
  const cli = await withStore(t);
  const { ckptfs } = cli;
  const disk = await withDisk(t, cli);
  const shell = await disk.boot();
  for (let seed = 0; seed < 4; seed++) await shell.run(dd(seed, 0, 400));
  t.match(await ckptfs('checkpoint', 'vm', '--name', 'one'), done);
  for (let seed = 4; seed < 8; seed++) await shell.run(dd(seed, 100, 400));
  await shell.run('blkdiscard -o 3145728 -l 524288 /dev/vda');
  t.match(await ckptfs('checkpoint', 'vm', '--name', 'two'), done);
  for (let seed = 8; seed < 12; seed++) await shell.run(dd(seed, 400, 300));
  t.match(await ckptfs('disk', 'compact', 'vm@one'), { status: 2, stderr: /never changes/ });
  t.match(await ckptfs('disk', 'compact', 'vm', '--threshold', '0'), { status: 2 });
  await ckptfs('stop', 'vm');
  const sums = async () => [
    await disk.sum('vm'),
    await disk.sum('vm@one'),
    await disk.sum('vm@two'),
  ];
  const expected = await sums();
  t.equal((await disk.logs()).length, 3);
  t.match(await ckptfs('disk', 'compact', 'vm', '--threshold', '101'), { status: 2 });

  const compacted = await ckptfs('disk', 'compact', 'vm', '--json');
  const [summary = {}] = compacted.objects.slice(-1);
  t.match(summary, {
    ...{ type: 'result', disk: 'vda', replaced: 3, written: 1, logsBefore: 3, logsAfter: 1 },
  });
  const sizes = { before: Number(summary.bytesBefore), after: Number(summary.bytesAfter) };
  t.ok(sizes.after < sizes.before / 3, `${sizes.before} to ${sizes.after} bytes`);
  const [name = ''] = await disk.logs();
  t.same(await disk.logs(), ['00000001-00000003.redo']);
  t.equal((await stat(join(disk.directory, name))).size, sizes.after);
  t.same(await sums(), expected, 'the disk and its checkpoints show what they showed');
  t.match(await ckptfs('verify', '--all'), done);
  t.match(await ckptfs('disk', 'check', 'vm'), done);
  t.match(await ckptfs('disk', 'compact', 'vm', '--all'), { ...done, stdout: /nothing to gain/ });

  // It takes writes again, by a log over the one that was sealed, and checkpoints.
  const again = await disk.again();
  t.equal(seenIn(await again.run('sha256sum /dev/vda')), expected[0]);
  await again.run(dd(12, 7, 9));
  t.match(await ckptfs('checkpoint', 'vm', '--name', 'three'), done);
  await ckptfs('stop', 'vm');
  const three = await disk.sum('vm@three');
  t.equal(await disk.sum('vm'), three);
  t.match(await ckptfs('restore', 'vm@three', '--name', 'other', '--detach'), done);
  t.match(await ckptfs('stop', 'other'), done);
  t.match(await ckptfs('disk', 'compact', 'other', '--all'), {
    ...done,
    stdout: /other:vda: \d redo logs \(.*\) are now \d/,
  });
  t.equal(await disk.sum('other'), three);
  t.match(await ckptfs('restore', 'vm@one', '--detach'), done);
  t.match(await ckptfs('stop', 'vm'), done);
  t.equal(await disk.sum('vm'), expected[1], 'a checkpoint from before is restored');
  t.match(await ckptfs('restore', 'vm@three', '--detach'), done);
  t.match(await ckptfs('stop', 'vm'), done);
  for (const checkpoint of ['one', 'two', 'three']) {
    t.match(await ckptfs('rm', `vm@${checkpoint}`), done);
  }
  t.match(await ckptfs('rm', 'other', '--force'), done);
  t.match(await ckptfs('disk', 'commit', 'vm'), done);
  t.equal(await sumOf(disk.parent), three, 'and it is committed like any other');
});

t.test('the disk of a running VM, while it writes', async (t) => {
  const cli = await withStore(t);
  const { ckptfs } = cli;
  const disk = await withDisk(t, cli, 'persistent');
  const shell = await disk.boot();
  t.match(await ckptfs('disk', 'compact', 'vm'), { ...done, stdout: /nothing to gain in 0/ });
  const kept: Record<string, string> = {};
  for (const name of ['a', 'b', 'c']) {
    for (const seed of [0, 1]) await shell.run(dd(seed + name.charCodeAt(0) - 90, 0, 600));
    kept[name] = seenIn(await shell.run('sync; sha256sum /dev/vda'));
    t.match(await ckptfs('checkpoint', 'vm', '--name', name), done);
  }
  const writing = shell.run(Array.from({ length: 8 }, (_, i) => dd(i, i * 50, 400)).join(' && '));
  for (let i = 0; i < 4; i++) {
    const { status, stdout, stderr } = await ckptfs('disk', 'compact', 'vm:vda', '--all');
    t.equal(status, 0, stdout + stderr);
    t.match(stdout, i === 0 ? /are now 2/ : /are now 2|nothing to gain/);
  }
  await writing;
  await shell.run('sync; echo 3 > /proc/sys/vm/drop_caches');
  const seen = seenIn(await shell.run('sha256sum /dev/vda'));
  // A checkpoint links the new log, and both go on.
  t.match(await ckptfs('checkpoint', 'vm', '--name', 'd'), done);
  await shell.run(dd(3, 0, 10));
  kept.d = seen;
  t.match(await ckptfs('disk', 'compact', 'vm', '--all'), done);
  t.match(await ckptfs('checkpoint', 'vm', '--name', 'e'), done);
  kept.e = seenIn(await shell.run('sync; sha256sum /dev/vda'));
  await ckptfs('stop', 'vm');
  for (const [name, sum] of Object.entries(kept)) t.equal(await disk.sum(`vm@${name}`), sum, name);
  t.equal(await disk.sum('vm'), kept.e);
  t.match(await ckptfs('verify', '--all'), done);
});

t.test('the process of a VM killed amid a compaction, and one that is cancelled', async (t) => {
  const cli = await withStore(t);
  const { ckptfs, store } = cli;
  const disk = await withDisk(t, cli, 'nonpersistent', 48 * mib);
  // What the disk holds, without asking the guest for all of it.
  const expected = Buffer.alloc(48 * mib, 0x61);
  const write = async (shell: GuestShell, seed: number, at: number, count: number) => {
    await shell.run(dd(seed, at, count));
    expected.fill(0x41 + seed, at * 4096, (at + count) * 4096);
  };
  const sum = () => createHash('sha256').update(expected).digest('hex');
  let shell = await disk.boot();
  await shell.run('dd if=/dev/zero of=/dev/vda bs=1M count=40 conv=notrunc,fsync');
  expected.fill(0, 0, 40 * mib);
  t.match(await ckptfs('checkpoint', 'vm', '--name', 'one'), done);
  await write(shell, 5, 0, 300);
  const before = await disk.logs();

  const { child, finished } = start(store, ['disk', 'compact', 'vm', '--all', '--json']);
  await Promise.race([unfinished(disk.directory), finished]);
  child.kill('SIGINT');
  const { status } = await finished;
  t.ok(status === 130 || status === 0, `the command ended with ${status}`);
  if (status === 130) {
    t.match(await ckptfs('disk', 'compact', 'vm', '--threshold', '1'), done, 'it has ended');
    t.same((await disk.logs()).slice(0, 2), before, 'what was there is there');
    t.same(await unfinishedIn(disk.directory), []);
  }
  for (let round = 0; round < 2; round++) {
    await write(shell, round, 500, 5);
    const other = start(store, ['disk', 'compact', 'vm', '--all']);
    await Promise.race([unfinished(disk.directory), other.finished]);
    await sleep(round * 15);
    shell.child.kill('SIGKILL');
    await other.finished;
    t.equal(await disk.sum('vm'), sum(), `killed, round ${round}`);
    shell = await disk.again();
    t.same(await unfinishedIn(disk.directory), []);
  }
  await ckptfs('stop', 'vm');
  t.equal(await disk.sum('vm'), sum());
  t.match(await ckptfs('verify', '--all'), done);
});

async function unfinishedIn(directory: string): Promise<string[]> {
  return (await readdir(directory)).filter(isUnfinishedLog);
}

/** Resolves when a new log is being written in `directory`. */
async function unfinished(directory: string): Promise<void> {
  for (let i = 0; i < 2000; i++) {
    if ((await unfinishedIn(directory)).length > 0) return;
    await sleep(2);
  }
}

t.test('a compaction that is killed anywhere leaves the disk as it was', async (t) => {
  const cli = await withStore(t);
  const { ckptfs, store } = cli;
  const disk = await withDisk(t, cli, 'nonpersistent', 64 * mib);
  const shell = await disk.boot();
  await shell.run('dd if=/dev/zero of=/dev/vda bs=1M count=48 conv=notrunc,fsync');
  t.match(await ckptfs('checkpoint', 'vm', '--name', 'one'), done);
  await shell.run(dd(1, 0, 1000));
  t.match(await ckptfs('checkpoint', 'vm', '--name', 'two'), done);
  await shell.run(dd(2, 500, 1000));
  await ckptfs('stop', 'vm');
  const expected = await disk.sum('vm');
  const saved = join(disk.scratch, 'saved');
  await mkdir(saved);
  for (const name of await readdir(disk.directory)) {
    await copyFile(join(disk.directory, name), join(saved, name));
  }
  const counts = { before: 0, midst: 0, after: 0 };
  for (let round = 0; round < 8; round++) {
    const { child, finished } = start(store, ['disk', 'compact', 'vm', '--all']);
    // From the start of Node.js, or of the new log, to the end of it all.
    const ms = (round >> 1) * 40;
    if (round % 2 === 0) await sleep(80 + ms);
    else await Promise.race([unfinished(disk.directory), finished]).then(() => sleep(ms / 2));
    child.kill('SIGKILL');
    await finished;
    const names = await readdir(disk.directory);
    const replaced = names.some((name) => /^\d+-\d+\.redo$/.test(name));
    const midst = names.some(isUnfinishedLog);
    counts[replaced ? 'after' : midst ? 'midst' : 'before']++;
    t.equal(await disk.sum('vm'), expected, `round ${round}`);
    if (!replaced) continue;
    for (const name of names) await rm(join(disk.directory, name));
    for (const name of await readdir(saved)) {
      await copyFile(join(saved, name), join(disk.directory, name));
    }
  }
  t.comment(`killed ${JSON.stringify(counts)}`);
  t.ok(counts.midst > 0, 'in the midst of it too');
  t.match(await ckptfs('disk', 'compact', 'vm', '--all'), done);
  t.equal(await disk.sum('vm'), expected);
  t.same((await readdir(disk.directory)).sort(), ['00000001-00000003.redo', 'base.json']);
  t.match(await ckptfs('verify', '--all'), done);

  // Both are there when the kill came between: the old ones go.
  for (const name of await readdir(saved)) {
    if (name !== 'base.json') await copyFile(join(saved, name), join(disk.directory, name));
  }
  t.equal(await disk.sum('vm'), expected);
  await disk.again();
  t.same((await readdir(disk.directory)).sort(), [
    ...['00000001-00000003.redo', '00000004.redo', 'base.json'],
  ]);
  await ckptfs('stop', 'vm');
  t.equal(await disk.sum('vm'), expected);
});

t.test('damage is not taken over', async (t) => {
  const cli = await withStore(t);
  const { ckptfs } = cli;
  const disk = await withDisk(t, cli);
  const shell = await disk.boot();
  for (let seed = 0; seed < 4; seed++) await shell.run(dd(seed, 0, 200));
  t.match(await ckptfs('checkpoint', 'vm', '--name', 'one'), done);
  await ckptfs('stop', 'vm');
  const [log = ''] = await disk.logs();
  const path = join(disk.directory, log);
  const bytes = await readFile(path);
  // The last record's data: what the disk is read from.
  const at = bytes.lastIndexOf(Buffer.alloc(4096, 0x44));
  bytes[at + 100] = 0;
  await truncate(path, 0);
  await writeFile(path, bytes);
  const before = await readdir(disk.directory);
  t.match(await ckptfs('disk', 'compact', 'vm', '--all'), { status: 4, stderr: /damaged/ });
  t.same(await readdir(disk.directory), before);
});

t.test('a disk whose newest log was sealed without the VM takes writes again', async (t) => {
  const cli = await withStore(t);
  const { ckptfs } = cli;
  const disk = await withDisk(t, cli);
  const shell = await disk.boot();
  await shell.run(dd(1, 0, 100));
  await ckptfs('stop', 'vm');
  // As a commit does that is then cut short.
  const layers = await layersOf(disk.directory, disk.parent);
  const into = join(disk.scratch, 'none');
  await t.rejects(commitDisk(layers, { logs: 1, again: false, into }), { code: 'NOT_FOUND' });
  t.ok(isSealedLog(layers.redo[0]?.path ?? ''));
  const again = await disk.again();
  await again.run(dd(4, 0, 10));
  const seen = seenIn(await again.run('sync; sha256sum /dev/vda'));
  await ckptfs('stop', 'vm');
  t.equal((await disk.logs()).length, 2);
  t.equal(await disk.sum('vm'), seen);
  t.match(await ckptfs('disk', 'commit', 'vm'), done);
  t.equal(await sumOf(disk.parent), seen);
});
