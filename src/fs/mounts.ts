/**
 * The kernel's mounts as /proc/self/mountinfo tells them, and the helpers that unmount. Nothing here looks
 * into a mount: a stat of one whose server hangs, or is this process, would hang too.
 */
import { execFile } from 'node:child_process';
import { lstat, readFile, realpath } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { ServerWatch } from './server_end.js';
import { CkptError, errnoOf, systemError } from '../errors.js';

const run = promisify(execFile);
const helperLimitMs = 10_000;
const pollMs = 20;
/** How long a server may write what it holds after its mount is gone. */
const serverLimitMs = 60_000;
/** A mount that does not even say that it is dead is not. */
const lookLimitMs = 5_000;

/** The type that the kernel shows for our mounts. */
export const mountType = 'fuse.ckptfs';

export interface MountEntry {
  /** Unique among present mounts; used anew after an unmount. */
  id: number;
  /** Major and minor number of the filesystem: "0:57". */
  device: string;
  directory: string;
  type: string;
}

/** Parses mountinfo (proc_pid_mountinfo(5)); lines of another form are passed over. */
export function parseMountinfo(text: string): MountEntry[] {
  const entries: MountEntry[] = [];
  for (const line of text.split('\n')) {
    const [before, after] = line.split(' - ', 2);
    const fields = before?.split(' ');
    const type = after?.split(' ')[0];
    if (fields?.[2] === undefined || fields[4] === undefined || type === undefined) continue;
    // Space, tab, line feed and backslash are written as \ and three octal digits.
    const directory = fields[4].replace(/\\([0-7]{3})/g, (_match, digits: string) =>
      String.fromCharCode(parseInt(digits, 8)),
    );
    entries.push({ id: Number(fields[0]), device: fields[2], directory, type });
  }
  return entries;
}

/** The mount on top of a directory (an absolute path without symbolic links), if one is there. */
export async function mountOn(directory: string): Promise<MountEntry | undefined> {
  const entries = parseMountinfo(await readFile('/proc/self/mountinfo', 'utf8'));
  return entries.findLast((entry) => entry.directory === directory);
}

/**
 * The absolute path of a directory without symbolic links; the last name is looked at only if it is no
 * mountpoint. NOT_FOUND when it does not exist.
 */
export async function canonicalPath(directory: string): Promise<string> {
  const path = resolve(directory);
  try {
    const real = join(await realpath(dirname(path)), basename(path));
    if ((await mountOn(real)) !== undefined) return real;
    return (await lstat(real)).isSymbolicLink() ? await realpath(real) : real;
  } catch (error) {
    throw systemError(error, `cannot use ${directory}`);
  }
}

/**
 * Takes a mount away; one that somebody else took away meanwhile is gone, too. BUSY when a program uses it; with
 * `lazy` it leaves the tree at once and ends when the last user is gone. Root uses umount(8), others the setuid helper that FUSE has for them.
 */
export async function unmountPath(directory: string, lazy = false): Promise<void> {
  const [helper, ...args] = unmountCommand(directory, lazy);
  try {
    await run(helper, args, { timeout: helperLimitMs, env: { ...process.env, LC_ALL: 'C' } });
  } catch (error) {
    if (errnoOf(error) !== 'ENOENT' && (await mountOn(directory)) === undefined) return;
    throw unmountError(directory, helper, error);
  }
}

/** The helper's command line; fuse3 has a fusermount too. */
export function unmountCommand(directory: string, lazy: boolean): [string, ...string[]] {
  if (process.getuid?.() === 0) {
    // -c: the path has no symbolic links, and looking at it is what must not be done.
    return ['umount', '-c', ...(lazy ? ['-l'] : []), directory];
  }
  return ['fusermount', '-u', ...(lazy ? ['-z'] : []), directory];
}

function unmountError(directory: string, helper: string, error: unknown): CkptError {
  if (errnoOf(error) === 'ENOENT') {
    return new CkptError('UNSUPPORTED', `${helper} is missing: install the Debian package fuse3`);
  }
  const said = (error as { stderr?: string }).stderr?.trim() ?? '';
  if (said.includes('busy')) {
    return new CkptError(
      'BUSY',
      `${directory} is in use; end the programs that have files of it open and try again`,
      { directory },
    );
  }
  const why = said.replaceAll('\n', ' ') || (error as Error).message;
  return new CkptError(
    'IO',
    `cannot unmount ${directory}: ${why}`,
    { directory },
    { cause: error },
  );
}

/** Resolves when the mount of that id is gone from the directory; BUSY after `limitMs`. */
export async function waitUntilGone(mount: MountEntry, limitMs: number): Promise<void> {
  const end = performance.now() + limitMs;
  while ((await mountOn(mount.directory))?.id === mount.id) {
    if (performance.now() > end) {
      throw new CkptError('BUSY', `${mount.directory} is still mounted after ${limitMs} ms`, {
        directory: mount.directory,
      });
    }
    await new Promise((resolve) => setTimeout(resolve, pollMs));
  }
}

/** Unmounts a ckptfs mount and waits until it is gone. NOT_FOUND or USAGE when it is none, BUSY. */
export async function unmountDirectory(directory: string): Promise<string> {
  const path = await canonicalPath(directory);
  const mount = await mountOn(path);
  if (mount === undefined) {
    throw new CkptError('NOT_FOUND', `nothing is mounted on ${path}`, { directory: path });
  }
  if (mount.type !== mountType) {
    throw new CkptError(
      'USAGE',
      `${path} is a ${mount.type} mount and not one of ckptfs; use umount ${path}`,
      { directory: path, type: mount.type },
    );
  }
  using server = await ServerWatch.open(mount.device);
  await unmountPath(path);
  await waitUntilGone(mount, helperLimitMs);
  if (server !== undefined && !(await server.ended(serverLimitMs))) {
    throw new CkptError(
      'BUSY',
      `${path} is unmounted, but its server still works after ${serverLimitMs / 1000} s; wait until it has ended`,
      { directory: path },
    );
  }
  return path;
}

/** Takes away mounts of ours whose server has died: nothing can bring them back. */
export async function clearDeadMount(path: string): Promise<void> {
  while ((await mountOn(path))?.type === mountType && (await isDead(path))) {
    await unmountPath(path, true);
  }
}

/** A child looks: whoever looks into a mount whose server hangs, hangs too. */
async function isDead(path: string): Promise<boolean> {
  try {
    await run('stat', ['-f', path], {
      timeout: lookLimitMs,
      killSignal: 'SIGKILL',
      env: { ...process.env, LC_ALL: 'C' },
    });
    return false;
  } catch (error) {
    const said = (error as { stderr?: string }).stderr ?? '';
    return said.includes('Transport endpoint is not connected');
  }
}
