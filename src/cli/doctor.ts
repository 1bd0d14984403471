/** ckptfs doctor: is everything here that ckptfs needs, and what to do where it is not. */
import { access, constants, readFile, stat, statfs } from 'node:fs/promises';
import { delimiter, dirname, join } from 'node:path';
import type { Command } from 'commander';
import { errnoOf, exitCodes, toCkptError } from '../errors.js';
import { type Context, withContext } from './context.js';
import { formatSize } from './sizes.js';

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
  program
    .command('doctor')
    .description('check that this machine has what ckptfs needs')
    .action(
      withContext(async (context) => {
        const findings: Finding[] = [];
        for (const check of checks) findings.push(await check(context));
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
  checkFuseNative,
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

function checkFuseNative(): Promise<Finding> {
  return probing('fuse-native and libfuse2', 'load', async () =>
    (await import('../fs/transport.js')).loadTransport('fuse-native'),
  );
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
