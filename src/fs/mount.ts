/**
 * Mounts a view on a directory and takes it away again.
 *
 * A mount is a guard: it ends by unmount(), when somebody else unmounts it, or with the process. All looks
 * at the directory come before the mount; afterwards only mountinfo is read (mounts.ts).
 */
import { spawn } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { lstat, readdir, realpath } from 'node:fs/promises';
import { basename, delimiter, dirname, join, resolve, sep } from 'node:path';
import createDebug from 'debug';
import { CkptError, systemError } from '../errors.js';
import { ErrorLog } from './error_log.js';
import {
  canonicalPath,
  clearDeadMount,
  type MountEntry,
  mountOn,
  mountType,
  unmountCommand,
  unmountPath,
  waitUntilGone,
} from './mounts.js';
import {
  checkAllowOther,
  type Ownership,
  ownOwnership,
  splitMountOptions,
} from './mount_options.js';
import { ServerEnd } from './server_end.js';
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
const mountOptionNames = ['allow_other', 'overlay=DIR', 'ro', 'rw'];
const overlayOption = /^overlay=(.+)$/;

export interface MountOptions {
  /** By default libfuse3, where the addon has it. */
  transport?: TransportName;
  /** Other users may look in; never by itself. */
  allowOther?: boolean;
  /** The disks of checkpoints take writes, which no checkpoint has and which are gone with the mount. */
  writable?: boolean;
  /** With `writable`: a directory for what is written, for later mounts of the same store (kept_overlays.ts). */
  overlay?: string;
  /** Whose the files show to be, and who may read them; by default the user who mounts, and whoever may look in. */
  ownership?: Partial<Ownership>;
  /** A request that takes longer is answered with ETIMEDOUT; 30 s by default. */
  requestLimitMs?: number;
  /** Told one line for each failure behind an EIO, each at most once a minute (error_log.ts). */
  onError?: (line: string) => void;
}

export interface Mount extends AsyncDisposable {
  readonly directory: string;
  readonly transport: TransportName;
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
  if (options.allowOther === true) await checkAllowOther();
  const transport = await loadTransport(options.transport);
  const log = new ErrorLog((line) => options.onError?.(line));
  const kept =
    options.overlay === undefined ? undefined : await openKept(options.overlay, path, view);
  const ownership = options.ownership && { ...ownOwnership(), ...options.ownership };
  const tree = new Tree(view, options.writable ?? false, { kept, ownership });
  let session: Session;
  try {
    session = await transport.attach(tree, path, {
      allowOther: options.allowOther ?? false,
      requestLimitMs: options.requestLimitMs ?? requestLimitMs,
      onError: (line) => log.write(line),
    });
  } catch (error) {
    if ((await mountOn(path)) !== undefined) await unmountPath(path, true);
    await tree.close();
    throw error;
  }
  const entry = await mountOn(path);
  if (entry === undefined) {
    await session.end();
    await tree.close();
    throw new CkptError('IO', `the mount on ${path} was taken away as it was made`);
  }
  debug('mounted %s on %s by %s', view.root, path, transport.name);
  const serverEnd = await ServerEnd.announce(entry.device);
  return new LiveMount(entry, transport.name, session, tree, serverEnd);
}

class LiveMount implements Mount {
  readonly directory: string;
  readonly gone: Promise<void>;
  readonly #entry: MountEntry;
  readonly #session: Session;
  readonly #tree: Tree;
  readonly #serverEnd: ServerEnd;
  readonly #watch: NodeJS.Timeout;
  #ended = false;
  #resolveGone: () => void = () => undefined;

  constructor(
    entry: MountEntry,
    readonly transport: TransportName,
    session: Session,
    tree: Tree,
    serverEnd: ServerEnd,
  ) {
    this.directory = entry.directory;
    this.#entry = entry;
    this.#session = session;
    this.#tree = tree;
    this.#serverEnd = serverEnd;
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
    await this.#tree.close().catch((error: unknown) => debug('%s: %o', this.directory, error));
    this.#serverEnd.close();
    debug('unmounted %s', this.directory);
    this.#resolveGone();
  }

  /** The process ends without unmount(): a helper that outlives it clears the dead mount away. */
  readonly #onExit = () => {
    const [file, ...args] = unmountCommand(this.directory, true);
    spawn(file, args, { detached: true, stdio: 'ignore' }).on('error', () => undefined);
  };
}

/** The mountpoint's path without symbolic links, once it is known to be a fit one; a dead mount on it is taken away. */
export async function checkMountpoint(directory: string, store: string): Promise<string> {
  const path = await canonicalPath(directory);
  await clearDeadMount(path);
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

/** Takes a directory for overlays, which lies neither in the mount nor in the store. */
async function openKept(directory: string, mountpoint: string, view: StoreView) {
  const path = join(await canonicalPath(dirname(resolve(directory))), basename(resolve(directory)));
  for (const [outer, what] of [
    [mountpoint, 'mount'],
    [await realpath(view.root), 'store'],
  ] as const) {
    if (!contains(outer, path)) continue;
    const why = `${path} lies in the ${what}; name a directory outside`;
    throw new CkptError('USAGE', `cannot keep overlays there: ${why}`, { directory: path });
  }
  const { KeptOverlays } = await import('./kept_overlays.js');
  return KeptOverlays.open(path);
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

type ParsedOptions = Pick<MountOptions, 'allowOther' | 'writable' | 'overlay' | 'ownership'>;

/**
 * Reads the comma list of -o; `ro` says what is so without `rw`. USAGE for anything unknown, which `sloppy` passes over.
 */
export function parseMountOptions(text: string, sloppy = false): ParsedOptions {
  const { words: given, ...ownership } = splitMountOptions(text);
  const overlay = given.flatMap((option) => overlayOption.exec(option)?.[1] ?? []).at(-1);
  const unknown = given.find(
    (option) => !mountOptionNames.includes(option) && !overlayOption.test(option),
  );
  if (unknown !== undefined && !sloppy) {
    throw new CkptError(
      'USAGE',
      `unknown mount option ${unknown}; there are: ${mountOptionNames.join(', ')}, uid=, gid=, umask=`,
      { option: unknown },
    );
  }
  if (given.includes('ro') && given.includes('rw')) {
    throw new CkptError('USAGE', 'a mount is either ro or rw; give one of them');
  }
  if (overlay !== undefined && !given.includes('rw')) {
    throw new CkptError('USAGE', 'overlay=DIR keeps what is written; give rw too');
  }
  return {
    allowOther: given.includes('allow_other'),
    writable: given.includes('rw'),
    ...(overlay === undefined ? {} : { overlay: resolve(overlay) }),
    ...ownership,
  };
}

/** The comma list that says the same wherever it is read. */
export function mountOptionsText(options: ParsedOptions): string {
  const { uid, gid, umask } = options.ownership ?? {};
  const values = { overlay: options.overlay, uid, gid, umask: umask?.toString(8) };
  return [
    options.writable ? 'rw' : 'ro',
    ...(options.allowOther ? ['allow_other'] : []),
    ...Object.entries(values).flatMap(([name, value]) =>
      value === undefined ? [] : [`${name}=${value}`],
    ),
  ].join(',');
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
