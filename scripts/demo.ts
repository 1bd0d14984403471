/**
 * The demo: boots Linux, checkpoints it live, reads the checkpoint as files with everyday tools, kills the
 * VM, restores it lazily, and lets the guest prove that nothing was lost. Non-interactive; uses the commands
 * that a user would type, and shows them. Everything it makes is in one temporary directory, removed at the
 * end on every path.
 */
import { execFile, spawn } from 'node:child_process';
import { mkdtemp, mkdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const run = promisify(execFile);
const root = fileURLToPath(new URL('../..', import.meta.url));
const main = join(root, 'dist/src/cli/main.js');
const guest = process.env.CKPTFS_GUEST ?? join(root, '.cache/guest');
const pollMs = 100;
const deadlineMs = 120_000;

/** Rows of the table at the end. */
const table: [string, string][] = [];

function tell(text: string): void {
  process.stdout.write(`\n\x1b[1m${text}\x1b[0m\n`);
}

function indent(text: string): string {
  return text.replace(/^(?=.)/gm, '    ');
}

/** Runs a program, shows it and what it prints (`limit` lines), and returns its stdout. */
async function tool(program: string, args: string[], limit = 12): Promise<string> {
  process.stdout.write(`  $ ${program} ${args.join(' ')}\n`);
  const { stdout, stderr } = await run(program, args, { maxBuffer: 64 << 20 });
  const lines = (stdout + stderr).trimEnd().split('\n');
  const shown = lines.slice(0, limit).join('\n') + (lines.length > limit ? '\n...' : '');
  if (shown) process.stdout.write(`${indent(shown)}\n`);
  return stdout;
}

/** Runs ckptfs with --json, shows the command, and returns its result. */
async function ckptfs<T>(store: string, ...args: string[]): Promise<T> {
  process.stdout.write(`  $ ckptfs ${args.join(' ')}\n`);
  const { stdout } = await run(process.execPath, [main, '--store', store, '--json', ...args]);
  const lines = stdout.trim().split('\n').filter(Boolean);
  return JSON.parse(lines.at(-1) ?? '{}') as T;
}

/** The first match of `pattern` in a file that grows; rejects at the deadline. */
async function awaitLine(file: string, pattern: RegExp): Promise<RegExpExecArray> {
  for (const end = Date.now() + deadlineMs; Date.now() < end;) {
    const found = pattern.exec(await readFile(file, 'latin1').catch(() => ''));
    if (found) return found;
    await new Promise((resolve) => setTimeout(resolve, pollMs));
  }
  throw new Error(`no ${pattern} in ${file} after ${deadlineMs / 1000} s`);
}

function check(holds: boolean, what: string): void {
  if (!holds) throw new Error(`the demo found a fault: ${what}`);
  process.stdout.write(`  ✓ ${what}\n`);
}

const ms = (us: number): string => `${(us / 1000).toFixed(1)} ms`;
const mib = (bytes: number): string => `${(bytes / 2 ** 20).toFixed(1)} MiB`;

interface Checkpoint {
  pauseUs: number;
  totalMs: number;
  memoryBytes: number;
  storedBytes: number;
  blocks: { vcpu: number; background: number; zero: number };
  faults: number;
}
interface Info {
  pid: number;
  instructions: number;
}
interface Restored {
  exit: { kind: string; reason: number };
  firstInstructionMs: number;
  completeMs: number;
  blocks: { demand: number; prefetched: number };
}

async function demo(scratch: string): Promise<void> {
  const store = join(scratch, 'store');
  const log = join(store, 'vms/demo/console.log');

  // The command line that scripts/guest recommends leaves out what takes most of a Debian kernel's boot.
  const cmdline = (await readFile(join(guest, 'cmdline'), 'utf8')).trim();
  const append = `${cmdline} ckptfs.mode=writer ckptfs.mib=64 ckptfs.rounds=120`;

  tell(
    '1. Boot Debian’s riscv64 kernel, with a copy-on-write ext4 disk and a self-checking writer',
  );
  const booted = Date.now();
  await ckptfs(
    store,
    ...['run', '--detach', '--name', 'demo', '--memory', '256M', '--cpus', '2'],
    ...['--kernel', join(guest, 'Image'), '--initrd', join(guest, 'initramfs.cpio')],
    ...['--disk', join(guest, 'disk.img'), '--append', append],
  );
  await awaitLine(log, /ckptfs-guest: init/);
  table.push(['start of the VM to /init', `${((Date.now() - booted) / 1000).toFixed(2)} s`]);
  const before = await awaitLine(log, /round (1\d) journal (\d+)/);
  process.stdout.write(`  the guest is at ${before[0]}\n`);

  tell('2. Take a live checkpoint in the middle of it');
  const taken = await ckptfs<Checkpoint>(store, 'checkpoint', 'demo', '--name', 'middle');
  const { blocks } = taken;
  table.push(
    ['pause of the guest', ms(taken.pauseUs)],
    ['save in the background', `${taken.totalMs.toFixed(0)} ms`],
    ['guest RAM / stored with LZ4', `${mib(taken.memoryBytes)} / ${mib(taken.storedBytes)}`],
    [
      'blocks saved by vCPUs / background / zero',
      `${blocks.vcpu} / ${blocks.background} / ${blocks.zero}`,
    ],
    ['write-trace faults', String(taken.faults)],
  );
  process.stdout.write(`  pause ${ms(taken.pauseUs)}, ${mib(taken.storedBytes)} stored\n`);

  tell('3. Read the checkpoint as files, with everyday tools');
  const mountpoint = join(scratch, 'mnt');
  await mkdir(mountpoint);
  await ckptfs(store, 'mount', store, mountpoint);
  try {
    await readMount(scratch, mountpoint);
  } finally {
    await ckptfs(store, 'umount', mountpoint);
  }
  const verified = await ckptfs<{ damage?: unknown[] }>(store, 'verify', 'demo@middle');
  check((verified.damage ?? []).length === 0, 'every byte of the checkpoint verifies');

  tell('4. Kill the VM with SIGKILL');
  const info = await ckptfs<Info>(store, 'info', 'demo');
  process.stdout.write(`  $ kill -9 ${info.pid}\n`);
  process.kill(info.pid, 'SIGKILL');
  check(!/PASS|FAIL/.test(await readFile(log, 'latin1')), 'it had not finished its work');

  tell('5. Restore the checkpoint lazily: the guest goes on and proves its own state');
  const restored = await restoreToTheEnd(store);
  table.push(
    ['restore: first instruction after', `${restored.firstInstructionMs.toFixed(1)} ms`],
    ['restore: all memory loaded after', `${restored.completeMs.toFixed(0)} ms`],
    [
      'blocks loaded on demand / ahead',
      `${restored.blocks.demand} / ${restored.blocks.prefetched}`,
    ],
  );
  const proof = /ckptfs-guest: (PASS [^\r\n]+)/.exec(await readFile(log, 'latin1'));
  check(proof !== null, `memory and journal are right: ${proof?.[1] ?? ''}`);
  check(
    restored.exit.kind === 'shutdown' && restored.exit.reason === 0,
    'it powered off by itself',
  );

  const width = Math.max(...table.map(([what]) => what.length));
  tell('What was measured (on this machine, with whatever else it was doing)');
  for (const [what, value] of table) process.stdout.write(`  ${what.padEnd(width)}  ${value}\n`);
}

/** Step 3 inside the mount: names, sums, copies, an archive, and the disk as a filesystem. */
async function readMount(scratch: string, mountpoint: string): Promise<void> {
  const checkpoint = join(mountpoint, 'vms/demo/checkpoints/middle');
  await tool('ls', ['-lR', join(mountpoint, 'vms/demo/checkpoints')], 30);
  const memory = join(checkpoint, 'memory');
  const copy = join(scratch, 'memory');
  const sum = async (file: string) => (await tool('sha256sum', [file])).slice(0, 64);
  await tool('cp', [memory, copy]);
  check(
    (await sum(memory)) === (await sum(copy)),
    'RAM, read twice through the mount, is the same',
  );
  await rm(copy);
  const archive = join(scratch, 'image.tar');
  await tool('tar', ['-cf', archive, '-C', checkpoint, 'image']);
  await tool('tar', ['-tvf', archive]);

  const disk = join(scratch, 'disk.img');
  await tool('cp', ['--sparse=always', join(checkpoint, 'disks/vda'), disk]);
  const loop = join(scratch, 'loop');
  await mkdir(loop);
  // The guest had the filesystem mounted: mounting the copy replays its journal, as after a power cut.
  await tool('mount', ['-o', 'loop', disk, loop]);
  try {
    await tool('ls', ['-l', loop]);
  } finally {
    await tool('umount', [loop]);
  }
  await tool('e2fsck', ['-fn', disk]);
  check(true, 'the disk of the checkpoint mounts, and its filesystem is clean');
}

/** Restores in the foreground and waits for the guest's end; its console goes to console.log as well. */
async function restoreToTheEnd(store: string): Promise<Restored> {
  const args = ['restore', 'demo@middle', '--lazy', '--exit-code'];
  process.stdout.write(`  $ ckptfs ${args.join(' ')}\n`);
  // Its standard input stays open: the end of it would be the end of the console.
  const child = spawn(process.execPath, [main, '--store', store, '--json', ...args], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  let output = '';
  child.stdout.on('data', (data: Buffer) => (output += data.toString()));
  const code = await new Promise<number | null>((resolve) => child.on('close', resolve));
  const result = output.trim().split('\n').at(-1) ?? '';
  if (code !== 0) throw new Error(`restore ended with ${code}: ${result}`);
  return JSON.parse(result) as Restored;
}

const scratch = await mkdtemp(join(tmpdir(), 'ckptfs-demo-'));
const began = Date.now();
try {
  await demo(scratch);
  tell(`The demo passed in ${((Date.now() - began) / 1000).toFixed(0)} s.`);
} catch (error) {
  process.stderr.write(`\ndemo: ${(error as Error).message}\n`);
  process.exitCode = 1;
} finally {
  const store = join(scratch, 'store');
  await run(process.execPath, [main, '--store', store, '-q', 'stop', 'demo']).catch(
    () => undefined,
  );
  await rm(scratch, { recursive: true, force: true });
}
