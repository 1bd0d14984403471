/**
 * A checkpoint that comes from the far end of a connection while a VM runs from it already (requirement D9).
 *
 * Its files lie in incoming/ with their full size, and with holes where nothing has come (sparse_file.ts). Whatever the
 * addon reads of them waits for what is missing (native/base/arrival.h), and tells of it; that is asked for before all
 * else (arrival_order.ts). When all has come it is compared with the far end by checksums, and published like anything
 * that is received (reception.ts).
 *
 * A connection that is lost is made again, for as long as it takes; whoever waits meanwhile goes on to wait, since
 * wrong bytes or a failed disk would be worse for a guest. Only what has come and is wrong ends it.
 *
 * Lives on the JavaScript thread, which never waits for what comes; ended by end(), on every path.
 */
import { setTimeout } from 'node:timers/promises';
import createDebug from 'debug';
import type { Store } from '../checkpoint/store.js';
import {
  deviceStateFile,
  type Manifest,
  memoryMapFile,
  parseManifest,
} from '../checkpoint/manifest.js';
import { CkptError, isLostWrite, toCkptError } from '../errors.js';
import { arrivalPieceBytes as pieceBytes, type Arrivals, arrivals } from '../native.js';
import type { ArrivingStatus } from '../types.js';
import type { Arriving } from '../vmm/arriving.js';
import { type Ask, ArrivalOrder } from './arrival_order.js';
import { parentTime } from './content.js';
import type { FarCheckpoint } from './far_checkpoint.js';
import { maxReadBytes, type Offer } from './messages.js';
import { openDisksLikeRestore, Reception } from './reception.js';
import type { SparseFile } from './sparse_file.js';
import { Window } from './window.js';

const debug = createDebug('ckptfs:transfer');
/** What is asked for at once, whoever waits for it. */
const mostUnderWayBytes = 16 << 20;
const noteMs = 5000;
/** What is kept of each piece must fit into memory: some 50 MiB for so much. */
const mostBytes = 2 ** 44;
const retryMs = { first: 500, most: 30_000 };
/** What is not better the next time: it waits for retry(). */
const lasting = ['USAGE', 'UNSUPPORTED', 'NOT_FOUND', 'DAMAGED'];

/** A checkpoint that is open at the far end, and the connection to it. */
export interface FarLink {
  readonly far: FarCheckpoint;
  /** A failure of it, told better. */
  explain(failure: unknown): Promise<unknown>;
  end(): Promise<void>;
}
/** Connects, and opens the checkpoint. */
export type Dial = (signal: AbortSignal) => Promise<FarLink>;

export interface ArrivalHooks {
  /** What people should know: the connection is lost, or there again. */
  onNews?: (text: string) => void;
}

interface ComingFile {
  /** Its place in the manifest here, and at the far end. */
  index: number;
  there: number;
  sparse: SparseFile;
  /** Of its contents, once all of it has come. */
  sum?: string;
  isProven: boolean;
}

export class Arrival implements Arriving {
  readonly whole: Promise<void>;
  /** The checkpoint as a directory, to be restored from. */
  directory = '';
  readonly #arrivals: Arrivals;
  readonly #order: ArrivalOrder;
  readonly #window = new Window();
  readonly #ending = new AbortController();
  #settle: { resolve: () => void; reject: (error: CkptError) => void } | undefined;
  #link: FarLink | undefined;
  #underWayBytes = 0;
  #error: string | undefined;
  /** While the checkpoint cannot be opened yet a failure ends it. */
  #isOpening = true;
  /** Until the guest runs nothing comes that nobody waits for. */
  #isRunning = false;
  #wake: () => void = () => {};
  #allow: () => void = () => {};
  readonly #allowed: Promise<void>;
  #finishing: Promise<void> | undefined;
  #reconnecting: Promise<void> | undefined;
  #noting: Promise<void> | undefined;
  #notes: NodeJS.Timeout | undefined;
  #isPublished = false;
  #ended: Promise<void> | undefined;
  /** Why it could not be opened. */
  #failure: unknown;

  private constructor(
    private readonly reception: Reception,
    private readonly files: readonly ComingFile[],
    link: FarLink,
    private readonly dial: Dial,
    private readonly hooks: ArrivalHooks,
  ) {
    this.#link = link;
    this.whole = new Promise((resolve, reject) => (this.#settle = { resolve, reject }));
    this.whole.catch(() => undefined);
    this.#allowed = new Promise((resolve) => (this.#allow = resolve));
    this.#order = new ArrivalOrder(
      files.map(({ sparse }) => ({ here: sparse.here, bytes: sparse.expected.bytes })),
      maxReadBytes / pieceBytes,
    );
    this.#arrivals = arrivals(() => this.#hear());
  }

  /**
   * Begins to bring the checkpoint of `link` into a store, and resolves when a VM can be restored from `directory`.
   * Undefined when the store has it already. Takes the link, which ends with it. Errors are those of a reception; IO.
   */
  static async begin(
    link: FarLink,
    dial: Dial,
    into: Store,
    of: { vm: string; name: string },
    hooks: ArrivalHooks = {},
  ): Promise<Arrival | undefined> {
    let reception: Reception | undefined;
    const files: ComingFile[] = [];
    let arrival: Arrival | undefined;
    try {
      reception = await Reception.begin(into, link.far.offer, { sparse: true, of });
      if (reception === undefined) {
        await link.end();
        return undefined;
      }
      refuseLarge(reception);
      for (const index of inOrder(reception)) {
        files.push({ index, there: index, sparse: await reception.sparse(index), isProven: false });
      }
      arrival = new Arrival(reception, files, link, dial, hooks);
      await arrival.#open();
      return arrival;
    } catch (error) {
      const why = await link.explain((arrival ? arrival.#failure : undefined) ?? error);
      await link.end();
      if (arrival) {
        await arrival.end();
      } else {
        for (const { sparse } of files) await sparse.close();
        await reception?.[Symbol.asyncDispose]();
      }
      throw why;
    }
  }

  status(): ArrivingStatus {
    const { manifest } = this.reception;
    const totalBytes = manifest.files.reduce((sum, { bytes }) => sum + bytes, 0);
    const missing = this.files.reduce(
      (sum, { sparse }) => sum + sparse.expected.bytes - sparse.hereBytes,
      0,
    );
    const error = this.#error;
    return {
      doneBytes: totalBytes - missing,
      totalBytes,
      ...(error === undefined ? {} : { error }),
    };
  }

  runs(): void {
    this.#isRunning = true;
    this.#fill();
  }

  mayPublish(): void {
    this.#allow();
  }

  retry(): void {
    this.#wake();
  }

  fail(): void {
    this.#arrivals.fail();
  }

  end(): Promise<void> {
    this.#ended ??= this.#end();
    return this.#ended;
  }

  /** Brings what opening the checkpoint takes. */
  async #open(): Promise<void> {
    const { manifest } = this.reception;
    for (const [number, { sparse }] of this.files.entries()) {
      const { path, bytes } = sparse.expected;
      const time = parentTime(manifest, path);
      this.#arrivals.add(sparse.fd, time);
      for (const { first, end } of sparse.here.runs()) {
        const offset = first * pieceBytes;
        this.#arrivals.arrived(number, offset, Math.min(end * pieceBytes, bytes) - offset);
      }
      this.#wantToOpen(number, path, bytes);
    }
    this.#notes = setInterval(() => void this.#note(), noteMs).unref();
    this.#fill();
    const small = this.files.filter(({ sparse }) => isSmall(sparse.expected.path));
    await this.#until(() => small.every(({ sparse }) => sparse.isWhole));
    this.directory = await this.reception.openedDirectory();
    await openDisksLikeRestore(this.directory);
    this.#isOpening = false;
  }

  /** The small files as a whole; of segments and redo logs both ends. Parents are read by the guest alone. */
  #wantToOpen(number: number, path: string, bytes: number): void {
    const want = (offset: number, count: number): void => {
      this.#order.want(number, offset, count, true);
    };
    if (isSmall(path)) return want(0, bytes);
    if (path.endsWith('.raw')) return;
    debug('the ends of %s', path);
    want(0, Math.min(bytes, pieceBytes));
    if (bytes > pieceBytes) want(bytes - 1, 1);
  }

  /** Resolves when `holds` does; it is looked at whenever something has come. */
  async #until(holds: () => boolean): Promise<void> {
    while (!holds()) {
      await new Promise<void>((resolve) => (this.#wake = resolve));
      if (this.#failure !== undefined) throw this.#failure as Error;
    }
  }

  /** Readers wait for something. */
  #hear(): void {
    for (const { file, offset, bytes, urgent } of this.#arrivals.wanted()) {
      debug('wanted: %s at %d, %d bytes', this.files[file]?.sparse.expected.path, offset, bytes);
      this.#order.want(file, offset, bytes, urgent);
    }
    this.#fill();
  }

  /** Asks for as much as may be under way. */
  #fill(): void {
    const link = this.#link;
    if (!link || this.#ending.signal.aborted) return;
    while (this.#underWayBytes < mostUnderWayBytes) {
      const ask = this.#order.next(this.#isRunning && this.#underWayBytes < this.#window.bytes);
      if (!ask) break;
      this.#ask(link, ask);
    }
    if (!this.#isOpening && this.#order.isWhole) this.#finish(link);
  }

  #ask(link: FarLink, ask: Ask): void {
    const file = this.files[ask.file];
    if (!file) throw new Error('a file that is not coming');
    const { there, sparse } = file;
    const { offset, bytes } = ask;
    const begun = performance.now();
    this.#underWayBytes += bytes;
    link.far.read(there, offset, bytes, sparse).then(
      () => {
        this.#underWayBytes -= bytes;
        this.#order.came(ask);
        this.#arrivals.arrived(ask.file, offset, bytes);
        this.#window.came(bytes, performance.now() - begun);
        if (this.#isOpening) this.#wake();
        this.#fill();
      },
      (error: unknown) => {
        this.#underWayBytes -= bytes;
        this.#order.lost(ask);
        this.#lose(link, error);
      },
    );
  }

  /** The connection is of no use any more. */
  #lose(link: FarLink, error: unknown): void {
    if (this.#link !== link || this.#ending.signal.aborted) return;
    this.#link = undefined;
    if (!this.#isOpening) {
      this.#reconnecting = this.#reconnect(link, error);
      return;
    }
    this.#failure = error;
    this.#arrivals.fail();
    this.#wake();
  }

  async #reconnect(old: FarLink, error: unknown): Promise<void> {
    const { signal } = this.#ending;
    let failure = await old.explain(error);
    this.#tell(failure);
    await old.end();
    for (let waitMs = retryMs.first; !signal.aborted; waitMs = Math.min(2 * waitMs, retryMs.most)) {
      const isLasting = lasting.includes(toCkptError(failure).code);
      if (!(await this.#pause(isLasting ? undefined : waitMs))) return;
      try {
        const link = await this.dial(signal);
        if (await this.#takeOver(link)) return;
      } catch (again) {
        failure = again;
        this.#tell(failure);
      }
    }
  }

  /** Goes on with a new connection; false when it came too late. */
  async #takeOver(link: FarLink): Promise<boolean> {
    try {
      const places = placesIn(link.far.offer);
      for (const file of this.files) {
        const { id, bytes, path } = file.sparse.expected;
        const there = places.get(`${id}-${bytes}`);
        if (there === undefined) throw replaced(path);
        file.there = there;
      }
    } catch (error) {
      await link.end();
      throw error;
    }
    if (this.#ending.signal.aborted) {
      await link.end();
      return false;
    }
    this.#error = undefined;
    this.hooks.onNews?.('the checkpoint comes again');
    this.#link = link;
    this.#fill();
    return true;
  }

  #tell(failure: unknown): void {
    const text = `the checkpoint does not come: ${toCkptError(failure).message}`;
    if (this.#error !== text) this.hooks.onNews?.(text);
    this.#error = text;
  }

  /** Waits so long, or until retry(); false at the end. */
  async #pause(ms: number | undefined): Promise<boolean> {
    if (this.#ending.signal.aborted) return false;
    const waited = new AbortController();
    const woken = new Promise<void>((resolve) => (this.#wake = resolve));
    const time =
      ms === undefined
        ? woken
        : setTimeout(ms, undefined, { ref: false, signal: waited.signal }).catch(() => undefined);
    await Promise.race([woken, time]);
    waited.abort();
    return !this.#ending.signal.aborted;
  }

  /** All has come: proves and publishes it, unless that goes on already. */
  #finish(link: FarLink): void {
    this.#finishing ??= this.#publish(link)
      .catch((error: unknown) => this.#failed(link, error))
      .finally(() => (this.#finishing = undefined));
  }

  async #publish(link: FarLink): Promise<void> {
    for (const file of this.files) {
      if (file.isProven) continue;
      const theirs = link.far.sum(file.there);
      theirs.catch(() => undefined); // met below
      file.sum ??= await file.sparse.sum(this.#ending.signal);
      if (file.sum !== (await theirs)) {
        await file.sparse.discard();
        throw notAsSent(file.sparse.expected.path);
      }
      await this.reception.adopt(file.index).catch((error: unknown) => {
        throw toCkptError(error).code === 'USAGE' ? notAsSent(file.sparse.expected.path) : error;
      });
      file.isProven = true;
    }
    await this.#allowed;
    if (this.#ending.signal.aborted) return;
    clearInterval(this.#notes);
    await this.#noting;
    for (const { sparse } of this.files) sparse.refuseLost();
    await this.reception.commit();
    this.#isPublished = true;
    this.#settle?.resolve();
    // Not waited for, as it waits for this.
    void this.end();
  }

  #failed(link: FarLink, error: unknown): void {
    const known = toCkptError(error);
    if (this.#ending.signal.aborted) return;
    if ((known.code === 'DAMAGED' && known.data.remote !== true) || isLostWrite(error)) {
      this.#error = known.message;
      this.#settle?.reject(known);
      return;
    }
    this.#lose(link, error);
  }

  /** Makes what has come count for another attempt. */
  #note(): Promise<void> {
    this.#noting ??= (async () => {
      for (const { sparse } of this.files) await sparse.note();
    })()
      .catch((error: unknown) => debug('note: %o', error))
      .finally(() => (this.#noting = undefined));
    return this.#noting;
  }

  async #end(): Promise<void> {
    this.#ending.abort();
    // Whoever waits for something else sees that it has ended.
    this.#wake();
    this.#allow();
    clearInterval(this.#notes);
    if (!this.#isPublished) this.#arrivals.fail();
    const link = this.#link;
    this.#link = undefined;
    await link?.end();
    await this.#reconnecting;
    await this.#finishing;
    await this.#noting;
    if (!this.#isPublished) await this.#note();
    this.#arrivals.close();
    for (const { sparse } of this.files) await sparse.close();
    await this.reception[Symbol.asyncDispose]();
    this.#settle?.reject(new CkptError('CANCELLED', 'the checkpoint has not come in full'));
  }
}

function isSmall(path: string): boolean {
  return path === memoryMapFile || path === deviceStateFile;
}

function refuseLarge({ manifest, wanted }: Pick<Reception, 'manifest' | 'wanted'>): void {
  const bytes = wanted.reduce((sum, { index }) => sum + (manifest.files[index]?.bytes ?? 0), 0);
  if (bytes <= mostBytes) return;
  throw new CkptError(
    'UNSUPPORTED',
    `the checkpoint has ${bytes} bytes, too many to run from before they have come; give --eager`,
    { bytes },
  );
}

/** The wanted files, in the order in which they had best come. */
function inOrder({ manifest, wanted }: Pick<Reception, 'manifest' | 'wanted'>): number[] {
  const rank = (index: number): number => {
    const path = manifest.files[index]?.path ?? '';
    if (isSmall(path)) return 0;
    return ['.hot', '.cold', '.redo', '.raw'].findIndex((suffix) => path.endsWith(suffix)) + 1;
  };
  return wanted.map(({ index }) => index).sort((a, b) => rank(a) - rank(b));
}

/** Which file of an offer has which contents. */
function placesIn({ manifest, files }: Offer): Map<string, number> {
  const parsed: Manifest = parseManifest(Buffer.from(manifest), 'the offered manifest');
  return new Map(parsed.files.map(({ bytes }, i) => [`${files[i]?.id}-${bytes}`, i]));
}

function replaced(path: string): CkptError {
  return new CkptError(
    'NOT_FOUND',
    `${path} is not part of the checkpoint at the far end any more, which has been compacted or replaced; stop the VM and recover it again`,
    { file: path },
  );
}

function notAsSent(path: string): CkptError {
  return new CkptError(
    'DAMAGED',
    `${path} has not arrived as it is at the far end (its checksum differs), so the VM does not go on; recover it again`,
    { file: path },
  );
}
