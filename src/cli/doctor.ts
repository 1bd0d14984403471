/** ckptfs doctor: is everything here that ckptfs needs, and what to do where it is not. */
import { access, constants, readFile, stat, statfs } from 'node:fs/promises';
import { delimiter, dirname, join } from 'node:path';
import type { Command } from 'commander';
import { errnoOf, exitCodes, toCkptError } from '../errors.js';
import { type Context, withContext } from './context.js';
import type { TransportName } from '../fs/transport.js';
import { formatSize } from './sizes.js';
import { addSshOptions, destinationHelp, type SshOptions, sshOptionsOf } from './ssh_options.js';

/** The oldest Node release whose APIs are used (package.json, engines). */
const leastNode = [20, 17] as const;
/** Below this a save of a small VM may not fit. */
const lowSpaceBytes = 2 ** 30;
/** Linux's default; see the mapping budget of the mprotect engine. */
const defaultMapCount = 65_530;

/** One line of the report. `hint`: not needed, but something would be better or faster with it. */
interface Finding {
  check: string;
  state: 'ok' | 'missing' | 'hint';
  detail: string;
  remedy?: string;
}

export function registerDoctor(program: Command): void {
  const command = program
    .command('doctor')
    .argument('[dest]', `where backups go to, to be checked too: ${destinationHelp}`)
    .description('check that this machine, and a destination of backups, have what ckptfs needs');
  addSshOptions(command).action(
    withContext(async (context, options: SshOptions, dest?: string) => {
      const findings: Finding[] = [];
      for (const check of checks) findings.push(await check(context));
      if (dest !== undefined) findings.push(await checkDestination(dest, options));
      for (const finding of findings) {
        const { state, detail, remedy } = finding;
        const text = `${state.padEnd(7)}  ${finding.check}: ${detail}${remedy ? `; ${remedy}` : ''}`;
        context.output.result(finding, text, state === 'missing' ? text : undefined);
      }
      const isWhole = findings.every(({ state }) => state !== 'missing');
      return isWhole ? exitCodes.done : exitCodes.failed;
    }),
  );
}

const checks: ((context: Context) => Promise<Finding>)[] = [
  checkNode,
  checkAddon,
  checkFuseDevice,
  () => checkTransport('libfuse3', 'libfuse 3'),
  () => checkTransport('fuse-native', 'fuse-native and libfuse2'),
  checkFusermount,
  checkMappings,
  checkUserfaultfd,
  checkStore,
  checkGuestTools,
];

function checkNode(): Promise<Finding> {
  const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
  const isNew = major > leastNode[0] || (major === leastNode[0] && minor >= leastNode[1]);
  return Promise.resolve({
    check: 'node',
    state: isNew ? 'ok' : 'missing',
    detail: process.versions.node,
    ...(isNew ? {} : { remedy: `install Node.js ${leastNode.join('.')} or later` }),
  });
}

/** `work` as a check: its failure is what is missing, and the failure's own words are the remedy. */
async function probing(check: string, detail: string, work: () => unknown): Promise<Finding> {
  try {
    await work();
    return { check, state: 'ok', detail };
  } catch (error) {
    return { check, state: 'missing', detail: toCkptError(error).message.replace(/\s+/g, ' ') };
  }
}

function checkAddon(): Promise<Finding> {
  return probing('native addon', 'loads', async () => (await import('../native.js')).probe());
}

/** One of the transports is enough. */
async function checkTransport(name: TransportName, check: string): Promise<Finding> {
  const { loadTransport } = await import('../fs/transport.js');
  const standard = await loadTransport().catch(() => undefined);
  const detail = standard?.name === name ? 'loads; mounts use it' : 'loads';
  const finding = await probing(check, detail, () => loadTransport(name));
  return finding.state === 'missing' && standard !== undefined
    ? { ...finding, state: 'hint' }
    : finding;
}

async function checkFuseDevice(): Promise<Finding> {
  const check = 'FUSE device';
  try {
    await access('/dev/fuse', constants.R_OK | constants.W_OK);
    return { check, state: 'ok', detail: '/dev/fuse' };
  } catch (error) {
    const detail = `/dev/fuse: ${errnoOf(error) ?? 'not usable'}`;
    const remedy = 'load it with "modprobe fuse"; in a container pass the device in';
    return { check, state: 'missing', detail, remedy };
  }
}

/** Whoever is not root needs the setuid helper to mount and unmount. */
async function checkFusermount(): Promise<Finding> {
  const check = 'fusermount';
  if (process.getuid?.() === 0) return { check, state: 'ok', detail: 'not needed by root' };
  const found = (await findProgram('fusermount')) ?? (await findProgram('fusermount3'));
  if (found !== undefined) return { check, state: 'ok', detail: found };
  return { check, state: 'missing', detail: 'not found', remedy: 'install the package fuse3' };
}

async function checkMappings(): Promise<Finding> {
  const check = 'vm.max_map_count';
  const count = Number(await readFile('/proc/sys/vm/max_map_count', 'utf8').catch(() => '0'));
  if (count >= defaultMapCount) return { check, state: 'ok', detail: String(count) };
  const remedy = `raise it with "sysctl vm.max_map_count=${defaultMapCount}" for large guests`;
  return { check, state: 'hint', detail: String(count), remedy };
}

/** Not used by the mprotect engine; told because other trace engines depend on it. */
async function checkUserfaultfd(): Promise<Finding> {
  const check = 'userfaultfd';
  const setting = await readFile('/proc/sys/vm/unprivileged_userfaultfd', 'utf8').catch(() => '');
  const isOpen = process.getuid?.() === 0 || setting.trim() === '1';
  if (setting !== '' && isOpen) return { check, state: 'ok', detail: 'usable, not needed' };
  return { check, state: 'hint', detail: 'not usable by this user, not needed' };
}

/** The store, or the nearest directory above the one that is still to be made. */
async function checkStore(context: Context): Promise<Finding> {
  const check = 'store';
  const path = context.storePath;
  let place = path;
  try {
    while (!(await isThere(place))) place = dirname(place);
    await access(place, constants.R_OK | constants.W_OK | constants.X_OK);
    if (place === path) await context.openStore({ create: false });
    const { bavail, bsize } = await statfs(place);
    const freeBytes = bavail * bsize;
    const detail = `${path}, ${place === path ? '' : 'to be made, '}${formatSize(freeBytes)} free`;
    if (freeBytes >= lowSpaceBytes) return { check, state: 'ok', detail };
    return { check, state: 'hint', detail, remedy: 'free some space or name another --store' };
  } catch (error) {
    const errno = errnoOf(error);
    const detail = errno === undefined ? toCkptError(error).message : `${place}: ${errno}`;
    return { check, state: 'missing', detail, remedy: 'name a writable directory with --store' };
  }
}

/** What `backup --to` would meet: the connection, the program at the far end, its store and its room. */
async function checkDestination(dest: string, options: SshOptions): Promise<Finding> {
  const check = 'destination';
  try {
    const { openTarget } = await import('../transfer/open.js');
    await using target = await openTarget(dest, sshOptionsOf(options));
    const { store, freeBytes } = target.info;
    const checkpoints = (await target.list()).length;
    const detail = `${dest}: store ${store}, ${checkpoints} checkpoints, ${formatSize(freeBytes)} free`;
    if (freeBytes >= lowSpaceBytes) return { check, state: 'ok', detail };
    return { check, state: 'hint', detail, remedy: 'free some space there' };
  } catch (error) {
    const { code, message } = toCkptError(error);
    const isNew = code === 'NOT_FOUND';
    const detail = isNew ? `${dest}: no store yet, "backup" makes it` : message;
    return { check, state: isNew ? 'ok' : 'missing', detail };
  }
}

async function isThere(path: string): Promise<boolean> {
  try {
    await stat(path);
    return true;
  } catch (error) {
    if (errnoOf(error) === 'ENOENT' && path !== '/') return false;
    throw error;
  }
}

/** Only the tests and the demo build guests. */
async function checkGuestTools(): Promise<Finding> {
  const check = 'guest tools';
  const needed = {
    'riscv64-unknown-elf-gcc': 'gcc-riscv64-unknown-elf',
    'riscv64-linux-gnu-gcc': 'gcc-riscv64-linux-gnu',
    mke2fs: 'e2fsprogs',
    'dpkg-deb': 'dpkg',
  };
  const packages: string[] = [];
  for (const [program, name] of Object.entries(needed)) {
    if ((await findProgram(program)) === undefined) packages.push(name);
  }
  if (packages.length === 0) return { check, state: 'ok', detail: 'for the demo and the tests' };
  const remedy = `for the demo and the tests install ${packages.join(' ')} (npm run setup does)`;
  return { check, state: 'hint', detail: 'some are missing', remedy };
}

async function findProgram(name: string): Promise<string | undefined> {
  const directories = [...(process.env.PATH ?? '').split(delimiter), '/usr/sbin', '/sbin'];
  for (const directory of directories) {
    const path = join(directory, name);
    try {
      await access(path, constants.X_OK);
      return path;
    } catch {
      // Not in this one.
    }
  }
  return undefined;
}
