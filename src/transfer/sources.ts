/**
 * The files of a parcel that are wanted, open from before the first is sent: whoever removes or compacts the
 * checkpoint meanwhile takes nothing away. A guard.
 */
import type { FileHandle } from 'node:fs/promises';
import { CkptError } from '../errors.js';
import { violation } from './messages.js';
import { openPacked, type Packed, type Parcel } from './parcel.js';

export class Sources implements AsyncDisposable {
  readonly #open = new Map<number, FileHandle>();

  private constructor(private readonly parcel: Parcel) {}

  static async open(parcel: Parcel, wanted: readonly { index: number; offset: number }[]) {
    const sources = new Sources(parcel);
    try {
      for (const { index, offset } of wanted) await sources.#add(index, offset);
      return sources;
    } catch (error) {
      await sources[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** All of its files, from their start. */
  static openAll(parcel: Parcel): Promise<Sources> {
    return Sources.open(
      parcel,
      parcel.files.map((_, index) => ({ index, offset: 0 })),
    );
  }

  of(index: number): { packed: Packed; file: FileHandle } {
    const [packed, file] = [this.parcel.files[index], this.#open.get(index)];
    if (!packed || !file) throw violation('a file that was not offered');
    return { packed, file };
  }

  async #add(index: number, offset: number): Promise<void> {
    const packed = this.parcel.files[index];
    if (!packed || this.#open.has(index) || offset > packed.file.bytes) {
      throw violation('it wants what was not offered');
    }
    const file = await openPacked(packed);
    this.#open.set(index, file);
    const { size } = await file.stat();
    if (packed.outside || size === packed.file.bytes) return;
    throw new CkptError(
      'BUSY',
      `${packed.source} has just been replaced; run the same command again`,
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const file of this.#open.values()) await file.close();
  }
}
