/**
 * Mounts a view on a directory and takes it away again.
 *
 * A mount is a guard: it ends by unmount(), when somebody else unmounts it, or with the process. All looks
 * at the directory come before the mount; afterwards only mountinfo is read (mounts.ts).
 */
import { spawn } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { lstat, readdir, realpath } from 'node:fs/promises';
import { delimiter, join, sep } from 'node:path';
import createDebug from 'debug';
import { CkptError, systemError } from '../errors.js';
import { ErrorLog } from './error_log.js';
import {
  canonicalPath,
  type MountEntry,
  mountOn,
  mountType,
  unmountCommand,
  unmountPath,
  waitUntilGone,
} from './mounts.js';
import { loadTransport, type Session, type TransportName, transportNames } from './transport.js';
import { Tree } from './tree.js';
import type { StoreView } from './view.js';

const debug = createDebug('ckptfs:fs');
const requestLimitMs = 30_000;
const goneLimitMs = 10_000;
/** How often to look whether somebody else has unmounted: the binding does not tell. */
const watchMs = 250;
/** The binding cuts a longer path. */
const maxPathBytes = 1023;

export interface MountOptions {
  /** By default fuse-native. */
  transport?: TransportName;
  /** Other users may look in; never by itself. */
  allowOther?: boolean;
  /** A request that takes longer is answered with ETIMEDOUT; 30 s by default. */
  requestLimitMs?: number;
  /** Told one line for each failure behind an EIO, each at most once a minute (error_log.ts). */
  onError?: (line: string) => void;
}

export interface Mount extends AsyncDisposable {
  readonly directory: string;
  /** Resolves when the mount is gone, whoever took it away. */
  readonly gone: Promise<void>;
  /** Takes the mount away; programs that have files open keep them while this process runs. */
  unmount(): Promise<void>;
}

/**
 * Mounts `view` on an empty directory outside the store and resolves when it answers.
 * NOT_FOUND (no such directory), USAGE (not a directory, not empty, overlaps the store), BUSY (a
 * mountpoint already), UNSUPPORTED (FUSE or the transport is missing), IO.
 */
export async function mount(
  view: StoreView,
  directory: string,
  options: MountOptions = {},
): Promise<Mount> {
  const path = await checkMountpoint(directory, view.root);
  checkFuse();
  const transport = await loadTransport(options.transport ?? 'fuse-native');
  const log = new ErrorLog((line) => options.onError?.(line));
  let session: Session;
  try {
    session = await transport.attach(new Tree(view), path, {
      allowOther: options.allowOther ?? false,
      requestLimitMs: options.requestLimitMs ?? requestLimitMs,
      onError: (line) => log.write(line),
    });
  } catch (error) {
    if ((await mountOn(path)) !== undefined) await unmountPath(path, true);
    throw error;
  }
  const entry = await mountOn(path);
  if (entry === undefined) {
    await session.end();
    throw new CkptError('IO', `the mount on ${path} was taken away as it was made`);
  }
  debug('mounted %s on %s', view.root, path);
  return new LiveMount(entry, session);
}

class LiveMount implements Mount {
  readonly directory: string;
  readonly gone: Promise<void>;
  readonly #entry: MountEntry;
  readonly #session: Session;
  readonly #watch: NodeJS.Timeout;
  #ended = false;
  #resolveGone: () => void = () => undefined;

  constructor(entry: MountEntry, session: Session) {
    this.directory = entry.directory;
    this.#entry = entry;
    this.#session = session;
    this.gone = new Promise((resolve) => (this.#resolveGone = resolve));
    this.#watch = setInterval(() => void this.#look(), watchMs).unref();
    process.on('exit', this.#onExit);
  }

  async unmount(): Promise<void> {
    if (this.#ended) return this.gone;
    try {
      await unmountPath(this.directory);
    } catch (error) {
      // Somebody else was faster, or a program has files open: those it may keep.
      if (await this.#present()) {
        debug('%s: %s', this.directory, (error as Error).message);
        await unmountPath(this.directory, true);
      }
    }
    await waitUntilGone(this.#entry, goneLimitMs);
    await this.#end();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.unmount();
  }

  async #present(): Promise<boolean> {
    return (await mountOn(this.directory))?.id === this.#entry.id;
  }

  async #look(): Promise<void> {
    try {
      if (!(await this.#present())) await this.#end();
    } catch (error) {
      debug('%s: %o', this.directory, error);
    }
  }

  async #end(): Promise<void> {
    if (this.#ended) return this.gone;
    this.#ended = true;
    clearInterval(this.#watch);
    process.off('exit', this.#onExit);
    await this.#session.end();
    debug('unmounted %s', this.directory);
    this.#resolveGone();
  }

  /** The process ends without unmount(): a helper that outlives it clears the dead mount away. */
  readonly #onExit = () => {
    const [file, ...args] = unmountCommand(this.directory, true);
    spawn(file, args, { detached: true, stdio: 'ignore' }).on('error', () => undefined);
  };
}

/** The mountpoint's path without symbolic links, once it is known to be a fit one. */
export async function checkMountpoint(directory: string, store: string): Promise<string> {
  const path = await canonicalPath(directory);
  const refuse = (code: 'USAGE' | 'BUSY', why: string): never => {
    throw new CkptError(code, `cannot mount on ${path}: ${why}`, { directory: path });
  };
  const present = await mountOn(path);
  if (present?.type === mountType) {
    refuse('BUSY', 'it is a ckptfs mount already; unmount it first (ckptfs umount)');
  }
  if (present !== undefined)
    refuse('BUSY', `it is a ${present.type} mount; name another directory`);
  if (Buffer.byteLength(path) > maxPathBytes) refuse('USAGE', 'its path is too long');
  try {
    if (!(await lstat(path)).isDirectory()) refuse('USAGE', 'it is not a directory');
    const root = await realpath(store);
    if (contains(root, path)) refuse('USAGE', 'it lies in the store; name a directory outside');
    if (contains(path, root)) refuse('USAGE', 'the store lies in it; name another directory');
    if ((await readdir(path)).length > 0)
      refuse('USAGE', 'it is not empty; name an empty directory');
  } catch (error) {
    throw systemError(error, `cannot mount on ${path}`);
  }
  return path;
}

function contains(outer: string, inner: string): boolean {
  return inner === outer || inner.startsWith(outer.endsWith(sep) ? outer : outer + sep);
}

/** What the binding needs and would only tell on its own stderr. */
function checkFuse(): void {
  const usable = (path: string, mode: number) => {
    try {
      accessSync(path, mode);
      return true;
    } catch {
      return false;
    }
  };
  if (!usable('/dev/fuse', constants.F_OK)) {
    throw new CkptError(
      'UNSUPPORTED',
      '/dev/fuse is missing: load the kernel module (modprobe fuse)',
    );
  }
  const root = process.getuid?.() === 0;
  if (!usable('/dev/fuse', constants.R_OK | constants.W_OK)) {
    const why = root ? 'the container may not use it' : 'ask for access, or run as root';
    throw new CkptError('UNSUPPORTED', `/dev/fuse cannot be opened: ${why}`);
  }
  const paths = (process.env.PATH ?? '').split(delimiter);
  if (!root && !paths.some((path) => usable(join(path, 'fusermount'), constants.X_OK))) {
    throw new CkptError(
      'UNSUPPORTED',
      'fusermount, which mounts for users, is missing: install the Debian package fuse3',
    );
  }
}

/** Reads the comma list of -o. `ro` says what is so anyway. USAGE for anything unknown. */
export function parseMountOptions(text: string): Pick<MountOptions, 'allowOther'> {
  const given = text.split(',').filter((option) => option !== '');
  for (const option of given) {
    if (option === 'ro' || option === 'allow_other') continue;
    throw new CkptError('USAGE', `unknown mount option ${option}; there are: allow_other, ro`, {
      option,
    });
  }
  return { allowOther: given.includes('allow_other') };
}

export function parseTransport(text: string): TransportName {
  const name = transportNames.find((known) => known === text);
  if (name !== undefined) return name;
  throw new CkptError(
    'USAGE',
    `unknown transport ${text}; there are: ${transportNames.join(', ')}`,
    { transport: text },
  );
}
