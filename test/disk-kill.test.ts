/**
 * ext4 in a guest whose VM process is killed with SIGKILL, again and again on the same disks: the journal replays, the
 * filesystem is clean, and every file that the guest had reported as synced is there, byte for byte. The disks
 * of both modes take turns; half of the kills come beside a live checkpoint. The moments are pseudo-random from a
 * fixed seed. CKPTFS_KILL_ROUNDS=50 kills so many times.
 */
import { spawnSync } from 'node:child_process';
import { copyFile, mkdir, readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import t, { type Test } from 'tap';
import { listCheckpoints } from '../src/checkpoint/checkpoints.js';
import { namesIn } from '../src/checkpoint/files.js';
import type { Store } from '../src/checkpoint/store.js';
import { start, withStore } from './support/cli.js';
import { linuxGuest, temporaryDirectory, until } from './support/guests.js';
import { runLinux } from './support/shell.js';

const rounds = Number(process.env.CKPTFS_KILL_ROUNDS ?? 4);
const modes = ['persistent', 'nonpersistent'] as const;
/** As in test/guests/linux/files.c. */
const [slots, maxWords] = [8, 32768];
const loadMs = 1200;
const startMs = 1500;
const saveMs = 1500;

t.setTimeout(60_000 * (1 + rounds));

/** What the guest writes as a version of a file. */
function contents(worker: number, slot: number, version: number): Buffer {
  const seed = Math.imul(worker * slots + slot + 1, 2654435761) ^ Math.imul(version, 2246822519);
  let x = ((seed ^ (seed >>> 15)) | 1) >>> 0;
  const words = new Uint32Array(1 + (x % maxWords));
  words[0] = version;
  for (let i = 1; i < words.length; i++) {
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    words[i] = x;
  }
  return Buffer.from(words.buffer);
}

/** The versions that lines of one kind tell, by file: the last of each. */
function told(text: string, kind: 'kept' | 'durable'): Map<string, number> {
  const lines = text.matchAll(new RegExp(`${kind} (\\d+) (\\d+) (\\d+)\\r?\\n`, 'g'));
  return new Map(
    [...lines].map(([, worker, slot, version]) => [`${worker}/${slot}`, Number(version)]),
  );
}

/** The versions of the files of an image, by file; fails the test for a file that is not whole. */
async function versionsIn(t: Test, image: string, directory: string): Promise<Map<string, number>> {
  await rm(directory, { recursive: true, force: true });
  await mkdir(directory);
  tool(t, [0], 'debugfs', '-R', `rdump / ${directory}`, image);
  const versions = new Map<string, number>();
  for (const worker of await readdir(directory)) {
    if (worker === 'lost+found') continue;
    for (const slot of await readdir(join(directory, worker))) {
      if (!/^\d+$/.test(slot)) continue;
      const found = await readFile(join(directory, worker, slot));
      const version = found.readUInt32LE(0);
      const expected = contents(Number(worker), Number(slot), version);
      if (!found.equals(expected)) t.fail(`${worker}/${slot} is not version ${version}`);
      versions.set(`${worker}/${slot}`, version);
    }
  }
  return versions;
}

/** Runs a tool that has to end with one of these codes. */
function tool(t: Test, codes: number[], file: string, ...args: string[]): void {
  const { status, stdout, stderr } = spawnSync(file, args, { encoding: 'utf8' });
  if (codes.includes(status ?? -1)) return;
  t.fail(`${file} ${args.join(' ')} ended with ${status}: ${stdout}${stderr}`);
}

/** Runs a VM and kills it some time after its guest has printed `pattern`; resolves with what it printed. */
async function killed(
  store: Store,
  args: string[],
  pattern: RegExp,
  moment: () => Promise<unknown>,
): Promise<string> {
  const { child, finished } = start(store, args);
  let text = '';
  child.stdout?.on('data', (piece: string) => (text += piece));
  await until(`the guest prints ${pattern.source}`, () => pattern.test(text));
  await moment();
  child.kill('SIGKILL');
  await finished;
  if (child.signalCode !== 'SIGKILL') throw new Error(`the VM ended by itself: ${text}`);
  return text;
}

t.test(`${rounds} kills of a guest that syncs and renames`, async (t) => {
  const scratch = await temporaryDirectory();
  t.teardown(scratch.remove);
  const { store, ckptfs } = await withStore(t);
  let state = 12345;
  const random = (below: number): number => {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
  const image = join(scratch.path, 'copy.img');
  const dump = join(scratch.path, 'dump');
  /** The versions on the disk of each VM. */
  const disks = modes.map((mode) => ({ mode, versions: new Map<string, number>() }));
  const seen = { durable: 0, kept: 0, checkpoints: 0 };

  const turns = Array.from({ length: Math.ceil(rounds / disks.length) }, () => disks).flat();
  for (const [round, disk] of turns.slice(0, rounds).entries()) {
    const name = disk.mode;
    const args = ['run', '--name', name];
    if (round < disks.length) {
      const parent = join(scratch.path, `${name}.img`);
      await copyFile(linuxGuest.disk, parent);
      args.splice(0, 1, ...(await runLinux('files')), '--disk', `${parent},mode=${disk.mode}`);
    }
    // Every fifth kill comes while the guest starts; every other pair of the rest has a checkpoint.
    const starting = round % 5 === 4;
    let checkpoint: Promise<unknown> | undefined;
    const text = await killed(store, args, starting ? /init/ : /durable/, async () => {
      if (starting) return sleep(random(startMs));
      if (round % 4 < 2) return sleep(random(loadMs));
      const saves = () => namesIn(store.checkpointsDirectory(name));
      const before = (await saves()).length;
      checkpoint = ckptfs('checkpoint', name, '--name', `round-${round}`);
      await until('a save', async () => (await saves()).length > before);
      return sleep(random(saveMs));
    });
    await checkpoint;
    if (/FAIL|no disk/.test(text)) t.fail(`round ${round}: ${text}`);
    const kept = told(text, 'kept');
    const durable = told(text, 'durable');
    for (const [file, version] of kept) {
      const known = disk.versions.get(file);
      // The guest's own replay has found what that of the copy did.
      if (version !== known) t.fail(`round ${round}: ${file} is ${version}, was ${known}`);
    }

    t.match(await ckptfs('disk', 'check', name), { status: 0 }, `round ${round}: ${name}`);
    t.match(await ckptfs('disk', 'flatten', name, '-o', image, '--force'), { status: 0 });
    tool(t, [0, 1], 'e2fsck', '-p', image);
    tool(t, [0], 'e2fsck', '-fn', image);
    const found = await versionsIn(t, image, dump);
    for (const file of new Set([...found.keys(), ...disk.versions.keys(), ...durable.keys()])) {
      const told = durable.get(file) ?? disk.versions.get(file) ?? 0;
      const version = found.get(file) ?? 0;
      // The next one may have been renamed, and not told of yet.
      if (version === told || version === told + 1) continue;
      t.fail(`round ${round}: ${file} is version ${version}, and ${told} had been synced`);
    }
    disk.versions = found;
    seen.durable += durable.size;
    seen.kept += kept.size;
  }

  for (const { mode } of disks) {
    for (const { name } of await listCheckpoints(store, mode)) {
      t.match(await ckptfs('verify', `${mode}@${name}`), { status: 0 });
      seen.checkpoints++;
    }
  }
  t.comment(JSON.stringify(seen));
  t.ok(seen.durable > rounds, 'the guest had synced files before it was killed');
  t.ok(rounds <= disks.length || seen.kept > 0, 'and found those of the run before');
});
