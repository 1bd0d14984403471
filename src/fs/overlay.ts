/**
 * A disk of a checkpoint in a mount that takes writes. It is read as the checkpoint has it until it is first
 * opened for writing; from then on every handle of the mount, also one that was open before, has the disk with
 * what has been written. The checkpoint never changes. The mount's end discards the writes, unless they are kept
 * (kept_overlays.ts): then the disk has them again in the next mount, from the first look on.
 */
import type { ByteSource, NativeSource, WritableSource } from '../native.js';
import { FsError } from './errno.js';
import { type Attributes, blocksOf, type OpenFile, type WritableFile } from './node.js';
import { type SharedSources, SourceNode } from './source.js';
import type { KeptOverlays, OverlaidCheckpoint } from './kept_overlays.js';
import type { DiskFile } from './view.js';

interface Overlay {
  source: WritableSource;
  /** When it was last written to, as far as it was by way of JavaScript. */
  writtenMs: number;
}

/** The overlays of a mount by key. Owned by the tree. */
export class Overlays {
  readonly #made = new Map<string, Overlay>();
  readonly #making = new Map<string, Promise<Overlay>>();

  /** With `kept` they outlast the mount. */
  constructor(readonly kept?: KeptOverlays) {}

  /** Undefined as long as nobody has opened the file for writing. */
  find(key: string): Overlay | undefined {
    return this.#made.get(key);
  }

  /** The overlay of that key, made by `open` the first time. */
  async make(key: string, open: () => Promise<WritableSource>): Promise<Overlay> {
    const made = this.#made.get(key) ?? this.#making.get(key);
    if (made !== undefined) return made;
    const making = open().then((source) => ({ source, writtenMs: 0 }));
    this.#making.set(key, making);
    try {
      const overlay = await making;
      this.#made.set(key, overlay);
      return overlay;
    } finally {
      this.#making.delete(key);
    }
  }

  /** Discards everything that was written, or makes it durable. */
  async close(): Promise<void> {
    try {
      if (this.kept)
        await Promise.all([...this.#made.values()].map(({ source }) => source.flush()));
    } finally {
      for (const { source } of this.#made.values()) source.close();
      this.#made.clear();
      this.kept?.close();
    }
  }
}

export class OverlaidNode extends SourceNode {
  override readonly writable = true;

  constructor(
    sources: SharedSources,
    readonly overlays: Overlays,
    key: string,
    /** Whose disk it is, and the disk's id. */
    readonly of: { checkpoint: OverlaidCheckpoint; disk: string },
    readonly disk: DiskFile,
    timeMs: () => number,
  ) {
    super(sources, key, disk, timeMs);
  }

  override async attributes(): Promise<Attributes> {
    const attributes = await super.attributes();
    const overlay = this.overlays.find(this.key);
    const native = overlay && nativeOf(overlay.source)?.writtenMs;
    const heldMs = Math.max(overlay?.writtenMs ?? 0, native ?? 0);
    const writtenMs = heldMs > 0 ? heldMs : await this.#keptMs();
    if (writtenMs === undefined) return attributes;
    return { ...attributes, blocks: blocksOf(attributes.bytes), timeMs: writtenMs };
  }

  override async open(): Promise<OpenFile> {
    if ((await this.#keptMs()) !== undefined) await this.#make();
    const { source, release } = await super.open();
    const overlay = this.overlays.find(this.key);
    if (overlay !== undefined) redirect(source, overlay.source);
    const current = () => this.overlays.find(this.key)?.source ?? source;
    const read = (into: Uint8Array, position: number) => current().read(into, position);
    return { source: { ...source, read }, release };
  }

  override async openWritable(): Promise<WritableFile> {
    const overlay = await this.#make();
    const { source } = overlay;
    const shared = await this.sources.find(this.key);
    if (shared !== undefined) redirect(shared, source);
    const write = (from: Uint8Array, position: number) => {
      if (position + from.length > source.bytes) throw new FsError('EFBIG', 'a disk does not grow');
      overlay.writtenMs = Date.now();
      return source.write(from, position);
    };
    // The overlay stays open for others.
    return { source: { ...source, write }, release: () => undefined };
  }

  #make(): Promise<Overlay> {
    const { kept } = this.overlays;
    return this.overlays.make(this.key, async () =>
      this.disk.openOverlay(await kept?.place(this.of.checkpoint, this.of.disk)),
    );
  }

  async #keptMs(): Promise<number | undefined> {
    return this.overlays.kept?.writtenMs(this.of.checkpoint, this.of.disk);
  }

  /** A disk keeps its size. EFBIG, EPERM. */
  override truncate(bytes: number): Promise<void> {
    if (bytes === this.disk.bytes) return Promise.resolve();
    return Promise.reject(new FsError(bytes > this.disk.bytes ? 'EFBIG' : 'EPERM'));
  }
}

function nativeOf(source: ByteSource): NativeSource | undefined {
  return source.native instanceof Uint8Array ? undefined : source.native;
}

/** Whoever reads the disk without JavaScript reads the overlay from now on: both are the addon's, or neither is. */
function redirect(disk: ByteSource, overlay: ByteSource): void {
  const [from, to] = [nativeOf(disk), nativeOf(overlay)];
  if (from !== undefined && to !== undefined) from.become(to);
}
