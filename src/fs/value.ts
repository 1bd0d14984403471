/**
 * A small live value as a JSON text, made anew at each stat and each open; a handle keeps what it opened.
 *
 * The text is padded with spaces to a multiple of 1 KiB: the size that a stat told a moment ago still
 * holds for the text opened now although its numbers have more digits, so no reader gets a cut text.
 */
import type { ByteSource } from '../native.js';
import { blocksOf, FsNode, type Attributes, type OpenFile } from './node.js';

const paddingBytes = 1024;

export class ValueNode extends FsNode {
  readonly kind = 'file';

  constructor(readonly produce: () => Promise<object>) {
    super();
  }

  override async attributes(): Promise<Attributes> {
    const bytes = (await this.#text()).length;
    return { bytes, blocks: blocksOf(bytes), nlink: 1, timeMs: Date.now() };
  }

  override async open(): Promise<OpenFile> {
    return { source: bufferSource(await this.#text()), release: () => undefined };
  }

  async #text(): Promise<Buffer> {
    const text = Buffer.from(JSON.stringify(await this.produce(), null, 2));
    const bytes = Math.ceil((text.length + 1) / paddingBytes) * paddingBytes;
    const padded = Buffer.alloc(bytes, ' ');
    text.copy(padded);
    padded[bytes - 1] = 0x0a;
    return padded;
  }
}

/** The bytes of a buffer as a source. */
export function bufferSource(buffer: Uint8Array): ByteSource {
  return {
    bytes: buffer.length,
    read(into, position) {
      const piece = buffer.subarray(position, position + into.length);
      into.set(piece);
      return Promise.resolve(piece.length);
    },
    close: () => undefined,
  };
}
