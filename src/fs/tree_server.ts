/**
 * What the kernel asks of a mount, answered from the tree: the part that all transports share. Every method
 * resolves, with a value or with the errno of what went wrong; whatever a person has to look into is told
 * once. Keeps the open files, by handle.
 */
import { pageBuffer, type WritableSource } from '../native.js';
import { errnoName, errnoNumber, FsError, isTrouble } from './errno.js';
import type { FsNode, OpenFile, WritableFile } from './node.js';
import type { Capacity, ListedEntry, NodeStat, Tree } from './tree.js';

const maxHandles = 4096;
/** Pieces of this size are read and written in buffers that are used again. */
const pooledBytes = 128 << 10;
const maxPooledBuffers = 16;

/** A value, or the number of an errno. */
export type Answer<T> = { errno: 0; value: T } | { errno: number };

export interface TreeServerOptions {
  /** A request that takes longer is answered with ETIMEDOUT; without it the transport sees to that. */
  requestLimitMs?: number;
  /** Told one line for each failure that a person has to look into. */
  onError: (line: string) => void;
}

export interface Opened {
  handle: number;
  file: OpenFile | WritableFile;
  node: FsNode;
}

/** Rejects with ETIMEDOUT when `work` takes longer; the work itself goes on. */
export async function within<T>(limitMs: number, work: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(
      () => reject(new FsError('ETIMEDOUT', `no answer within ${limitMs} ms`)),
      limitMs,
    );
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** How often what a program waits for is looked at. */
const pollMs = 200;

interface Handle {
  file: OpenFile | WritableFile;
  path: string;
  /** As it was when it was opened. */
  stat: NodeStat;
  /** Reads and writes under way, also those that were answered with ETIMEDOUT. */
  pending: Set<Promise<unknown>>;
  /** Looks whether it has changed, for a program that waits for it. */
  watch?: NodeJS.Timeout;
}

export class TreeServer {
  readonly #handles = new Map<number, Handle>();
  readonly #buffers: Buffer[] = [];
  #nextHandle = 1;

  constructor(
    readonly tree: Tree,
    readonly options: TreeServerOptions,
  ) {}

  /** What is open stays to be seen without its checkpoint: the kernel asks when a reader comes to the end. */
  stat(path: string): Promise<Answer<NodeStat>> {
    const look = async () => {
      try {
        return await this.tree.stat(path);
      } catch (error) {
        const open = [...this.#handles.values()].find((handle) => handle.path === path);
        if (open === undefined || errnoName(error) !== 'ENOENT') throw error;
        return open.stat;
      }
    };
    return this.#answer(path, look());
  }

  list(path: string): Promise<Answer<ListedEntry[]>> {
    return this.#answer(path, this.tree.list(path));
  }

  target(path: string): Promise<Answer<string>> {
    return this.#answer(
      path,
      this.tree.node(path).then((node) => node.target()),
    );
  }

  capacity(path: string): Promise<Answer<Capacity>> {
    return this.#answer(path, this.tree.capacity());
  }

  xattr(path: string, name: string): Promise<Answer<string>> {
    const work = async () => {
      const value = (await this.tree.node(path)).xattrs().get(name);
      if (value === undefined) throw new FsError('ENODATA');
      return value;
    };
    return this.#answer(path, work());
  }

  /** The names, each with a zero byte after it. */
  xattrs(path: string): Promise<Answer<string>> {
    const work = async () => {
      const names = [...(await this.tree.node(path)).xattrs().keys()];
      return names.map((name) => `${name}\0`).join('');
    };
    return this.#answer(path, work());
  }

  truncate(path: string, bytes: number): Promise<Answer<void>> {
    return this.#answer(
      path,
      this.tree.node(path).then((node) => node.truncate(bytes)),
    );
  }

  /** A checkpoint takes as long as it takes, and ends by itself: no limit. */
  makeDirectory(path: string): Promise<Answer<void>> {
    return this.#settle(path, this.tree.makeDirectory(path));
  }

  removeDirectory(path: string): Promise<Answer<void>> {
    return this.#settle(path, this.tree.removeDirectory(path));
  }

  rename(path: string): Promise<Answer<never>> {
    return this.#answer(path, this.tree.rename(path));
  }

  /** Opens a file; every handle needs one release(). */
  async open(path: string, writing: boolean): Promise<Answer<Opened>> {
    if (this.#handles.size >= maxHandles) return { errno: errnoNumber('ENFILE') };
    const work = this.tree.stat(path).then(async (stat) => {
      const node = await this.tree.node(path);
      return { stat, node, file: writing ? await node.openWritable() : await node.open() };
    });
    const answer = await this.#answer(path, work);
    if (!('value' in answer)) {
      // One that opens after its request was answered with ETIMEDOUT is of no use to anybody.
      work.then(({ file }) => file.release()).catch(() => undefined);
      return answer;
    }
    while (this.#handles.has(this.#nextHandle)) this.#advance();
    const handle = this.#nextHandle;
    this.#advance();
    const { stat, node, file } = answer.value;
    this.#handles.set(handle, { file, path, stat, pending: new Set() });
    return { errno: 0, value: { handle, node, file } };
  }

  /**
   * Reads into a buffer of our own, which `use` may look into before the answer comes: a source that is late
   * still writes into what it was given. Resolves with the bytes read: fewer than asked for at the end.
   */
  async read(
    number: number,
    length: number,
    position: number,
    use: (piece: Buffer) => void,
  ): Promise<Answer<number>> {
    const handle = this.#handles.get(number);
    if (handle === undefined) return { errno: errnoNumber('EBADF') };
    const buffer = this.#borrow(length);
    const reading = readFully(handle.file, buffer.subarray(0, length), position);
    return this.#transfer(handle, buffer, reading, (bytes) => {
      use(buffer.subarray(0, bytes));
      return bytes;
    });
  }

  /** Writes from a buffer of our own, for the same reason. */
  async write(number: number, from: Uint8Array, position: number): Promise<Answer<number>> {
    const handle = this.#handles.get(number);
    const target = writable(handle);
    if (handle === undefined || target === undefined) return { errno: errnoNumber('EBADF') };
    const buffer = this.#borrow(from.length);
    buffer.set(from);
    const writing = Promise.resolve().then(() =>
      target.write(buffer.subarray(0, from.length), position),
    );
    return this.#transfer(handle, buffer, writing, () => from.length);
  }

  sync(number: number): Promise<Answer<void>> {
    const handle = this.#handles.get(number);
    return this.#answer(handle?.path ?? '', writable(handle)?.flush() ?? Promise.resolve());
  }

  /**
   * Whether an open file has something new; false for one that never tells. With `wake`, which is called once, a
   * change that comes later is told.
   */
  async poll(number: number, wake?: () => void): Promise<Answer<boolean>> {
    const handle = this.#handles.get(number);
    if (handle === undefined) return { errno: errnoNumber('EBADF') };
    const changed = handle.file.changed ?? (() => Promise.resolve(false));
    const answer = await this.#answer(handle.path, changed());
    if (wake !== undefined && 'value' in answer && !answer.value && this.#handles.has(number)) {
      clearTimeout(handle.watch);
      const look = async () => {
        // One that fails is told by the read that follows.
        if (await changed().catch(() => true)) wake();
        else if (this.#handles.has(number)) handle.watch = setTimeout(() => void look(), pollMs);
      };
      handle.watch = setTimeout(() => void look(), pollMs);
    }
    return answer;
  }

  /** The file is closed when nothing is under way in it. */
  release(number: number): void {
    const handle = this.#handles.get(number);
    this.#handles.delete(number);
    if (handle !== undefined) {
      clearTimeout(handle.watch);
      void Promise.allSettled(handle.pending).then(() => handle.file.release());
    }
  }

  /** Releases everything: nobody asks any more. */
  close(): void {
    for (const handle of [...this.#handles.keys()]) this.release(handle);
  }

  /** Tells a failure that somebody has to look into. */
  tell(path: string, message: string, name: string): void {
    this.options.onError(`${path}: ${message} (${name})`);
  }

  #answer<T>(path: string, work: Promise<T>): Promise<Answer<T>> {
    const { requestLimitMs } = this.options;
    return this.#settle(path, requestLimitMs === undefined ? work : within(requestLimitMs, work));
  }

  async #settle<T>(path: string, work: Promise<T>): Promise<Answer<T>> {
    try {
      return { errno: 0, value: await work };
    } catch (error) {
      const name = errnoName(error);
      if (isTrouble(name)) this.tell(path, (error as Error).message, name);
      return { errno: errnoNumber(name) };
    }
  }

  /** Answers with the number that `succeed` gives; the buffer is free again when the work has ended. */
  async #transfer<T>(
    handle: Handle,
    buffer: Buffer,
    work: Promise<T>,
    succeed: (value: T) => number,
  ): Promise<Answer<number>> {
    const done = () => {
      handle.pending.delete(work);
      if (buffer.length === pooledBytes && this.#buffers.length < maxPooledBuffers) {
        this.#buffers.push(buffer);
      }
    };
    handle.pending.add(work);
    const answer = await this.#answer(handle.path, work);
    const result = 'value' in answer ? { errno: 0 as const, value: succeed(answer.value) } : answer;
    void work.then(done, done);
    return result;
  }

  #borrow(bytes: number): Buffer {
    const pooled = bytes <= pooledBytes ? this.#buffers.pop() : undefined;
    return pooled ?? pageBuffer(Math.max(bytes, pooledBytes));
  }

  /** Handles are 31 bits and never 0. */
  #advance(): void {
    this.#nextHandle = (this.#nextHandle % 0x7fffffff) + 1;
  }
}

/** What a handle was opened to write to. */
function writable(handle: Handle | undefined): WritableSource | undefined {
  const source = handle?.file.source;
  return source !== undefined && 'write' in source ? source : undefined;
}

/** Reads until the piece is full or the source ends: the kernel takes a short read for the end. */
async function readFully(
  { source }: OpenFile,
  piece: Uint8Array,
  position: number,
): Promise<number> {
  let done = 0;
  while (done < piece.length) {
    const bytes = await source.read(piece.subarray(done), position + done);
    if (bytes <= 0) break;
    done += bytes;
  }
  return done;
}
