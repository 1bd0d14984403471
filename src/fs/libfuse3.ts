/**
 * The transport over libfuse 3 (native/fuse): names and attributes are answered here, bytes by the addon.
 *
 * The kernel keeps what cannot change, or changes only where we hear of it: files of checkpoints with their
 * attributes and pages, and the names of VMs and checkpoints for as long as the view tells of changes. What
 * changes by itself is asked for each time.
 */
import { constants } from 'node:os';
import { writeFile } from 'node:fs/promises';
import { getSystemErrorName } from 'node:util';
import createDebug from 'debug';
import { CkptError } from '../errors.js';
import {
  type FuseEvent,
  type FuseQuestion,
  fuseSessionClass,
  type ListAnswer,
  type OpenAnswer,
  type RawFuseSession,
  type StatAnswer,
} from '../native.js';
import { errnoName, errnosByCode, isTrouble } from './errno.js';
import { kernelOptions } from './mount_options.js';
import { mountOn } from './mounts.js';
import type { Caching } from './node.js';
import { maxNameBytes, type NodeStat, type Tree } from './tree.js';
import { type Answer, TreeServer } from './tree_server.js';
import type { Session, Transport, TransportOptions } from './transport.js';

const debug = createDebug('ckptfs:fs');

/** What cannot change is kept until the kernel needs the room. */
const foreverSeconds = 365 * 24 * 3600;
/** Names whose changes we hear of: a bound, should one be lost on its way to us. */
const toldSeconds = 10;
/** What the kernel reads ahead: enough to keep two threads busy with requests of 1 MiB. */
const readAheadKib = 4096;

/** Loads the addon's sessions; UNSUPPORTED when it was built without. */
export function loadLibfuse3(): Transport {
  const SessionClass = fuseSessionClass();
  if (SessionClass === undefined) {
    throw new CkptError(
      'UNSUPPORTED',
      'the native addon was built without libfuse 3: install the Debian package libfuse3-dev and run npm run setup',
    );
  }
  return {
    name: 'libfuse3',
    attach: async (tree, directory, options) => {
      const session = new Libfuse3Session(tree, options);
      const setup = {
        options: kernelOptions(tree, options),
        requestLimitMs: options.requestLimitMs,
        errnos: errnosByCode(),
      };
      const raw = new SessionClass(JSON.stringify(setup), (event) => session.hear(event));
      await session.attach(raw, directory);
      return session;
    },
  };
}

class Libfuse3Session implements Session {
  readonly #server: TreeServer;
  #raw: RawFuseSession | undefined;
  /** Ends the watch over the view; undefined while nothing is watched. */
  #unwatch: (() => void) | undefined;

  constructor(tree: Tree, options: TransportOptions) {
    this.#server = new TreeServer(tree, { onError: options.onError });
  }

  async attach(raw: RawFuseSession, directory: string): Promise<void> {
    this.#raw = raw;
    this.#watch();
    try {
      await raw.mount(directory);
    } catch (error) {
      await this.end();
      throw error;
    }
    await widenReadAhead(directory);
  }

  async end(): Promise<void> {
    this.#unwatch?.();
    await this.#raw?.end();
    this.#server.close();
  }

  hear(event: FuseEvent): void {
    if (event.kind === 'released') {
      this.#server.release(event.handle);
    } else if (event.kind === 'failed') {
      const name = getSystemErrorName(-event.errno);
      this.#server.tell(event.path, event.message, name);
    } else {
      this.#reply(event).catch((error: unknown) => {
        debug('%s: %o', event.path, error);
        this.#raw?.answer(event.id, constants.errno.EIO);
      });
    }
  }

  async #reply(question: FuseQuestion): Promise<void> {
    const { id, path } = question;
    switch (question.kind) {
      case 'stat':
        return this.#tell(id, await this.#server.stat(path), (stat) => this.#statText(stat));
      case 'list':
        return this.#tell(id, await this.#server.list(path), (entries) =>
          JSON.stringify(entries satisfies ListAnswer[]),
        );
      case 'target':
        return this.#tell(id, await this.#server.target(path), (target) => target);
      case 'capacity':
        return this.#tell(id, await this.#server.capacity(path), (capacity) =>
          JSON.stringify({ ...capacity, maxNameBytes }),
        );
      case 'xattr':
        return this.#tell(id, await this.#server.xattr(path, question.name), (value) => value);
      case 'xattrs':
        return this.#tell(id, await this.#server.xattrs(path), (names) => names);
      case 'truncate':
        return this.#tellStat(id, path, await this.#server.truncate(path, question.bytes));
      case 'makeDirectory':
        return this.#tellStat(id, path, await this.#server.makeDirectory(path));
      case 'removeDirectory':
        return this.#tell(id, await this.#server.removeDirectory(path), () => '');
      case 'rename':
        return this.#tell(id, await this.#server.rename(path), () => '');
      case 'sync':
        return this.#tell(id, await this.#server.sync(question.handle), () => '');
      case 'write': {
        const { handle, position, data = new Uint8Array() } = question;
        return this.#tell(id, await this.#server.write(handle, data, position), () => '');
      }
      case 'read': {
        const { handle, bytes, position } = question;
        const read = await this.#server.read(handle, bytes, position, (piece) =>
          this.#raw?.answer(id, 0, piece),
        );
        return 'value' in read ? undefined : this.#tell(id, read, () => '');
      }
      case 'poll': {
        const { handle, bytes } = question;
        const wake = bytes > 0 ? () => this.#raw?.wake(handle) : undefined;
        return this.#tell(id, await this.#server.poll(handle, wake), (changed) =>
          changed ? 'changed' : '',
        );
      }
      case 'open':
      case 'openWritable':
        return this.#open(id, path, question.kind === 'openWritable');
    }
  }

  #tell<T>(id: number, answer: Answer<T>, text: (value: T) => string): void {
    if ('value' in answer) this.#raw?.answer(id, 0, text(answer.value));
    else this.#raw?.answer(id, answer.errno);
  }

  /** What the path is now that something was done to it. */
  async #tellStat(id: number, path: string, done: Answer<void>): Promise<void> {
    const stat = 'value' in done ? await this.#server.stat(path) : done;
    this.#tell(id, stat, (value) => this.#statText(value));
  }

  async #open(id: number, path: string, writing: boolean): Promise<void> {
    const opened = await this.#server.open(path, writing);
    if (!('value' in opened)) return this.#tell(id, opened, () => '');
    const { handle, file, node } = opened.value;
    const answer: OpenAnswer = {
      handle,
      bytes: file.source.bytes,
      key: node.key ?? '',
      caching: node.caching,
      version: file.version ?? '',
      polls: file.changed !== undefined,
    };
    const taken = this.#raw?.answer(id, 0, JSON.stringify(answer), file.source.native);
    // Too late, or the program that wanted it is gone.
    if (taken !== true) this.#server.release(handle);
  }

  #statText(stat: NodeStat): string {
    const { mode, inode, bytes, blocks, nlink, uid, gid, timeMs, key } = stat;
    const answer: StatAnswer = {
      ...{ mode, inode, bytes, blocks, nlink, uid, gid, timeMs, key },
      attributesSeconds: this.#attributesSeconds(stat),
      entrySeconds: this.#entrySeconds(stat.caching),
    };
    return JSON.stringify(answer);
  }

  /** A directory's change with the names in it; those of a file that is kept never do, but by the kernel. */
  #attributesSeconds({ kind, caching }: NodeStat): number {
    if (caching !== 'kept') return 0;
    return kind === 'directory' ? this.#entrySeconds(caching) : foreverSeconds;
  }

  #entrySeconds(caching: Caching): number {
    return caching === 'kept' && this.#unwatch !== undefined ? toldSeconds : 0;
  }

  #watch(): void {
    try {
      this.#unwatch = this.#server.tree.view.watch?.(
        (directory, name) => this.#raw?.changed(directory, name ?? ''),
        () => (this.#unwatch = undefined),
      );
    } catch (error) {
      if (isTrouble(errnoName(error))) debug('nothing is watched: %s', (error as Error).message);
    }
  }
}

/** The kernel's own is 128 KiB, and only root may change it: without, it is slower to read in order. */
async function widenReadAhead(directory: string): Promise<void> {
  const device = (await mountOn(directory))?.device;
  if (device === undefined) return;
  await writeFile(`/sys/class/bdi/${device}/read_ahead_kb`, String(readAheadKib)).catch(
    (error: unknown) => debug('read-ahead stays as it is: %s', (error as Error).message),
  );
}
