/**
 * A small live value as a JSON text, made anew at each stat and each open; a handle keeps what it opened.
 *
 * The text is padded with spaces to a multiple of 1 KiB: the size that a stat told a moment ago still
 * holds for the text opened now although its numbers have more digits, so no reader gets a cut text.
 */
import { isDeepStrictEqual } from 'node:util';
import type { ByteSource } from '../native.js';
import { blocksOf, FsNode, type Attributes, type OpenFile } from './node.js';

const paddingBytes = 1024;

export class ValueNode extends FsNode {
  readonly kind = 'file';

  /** Programs can wait until `news` of it is different. */
  constructor(
    readonly produce: () => Promise<object>,
    readonly news: (value: object) => object = (value) => value,
  ) {
    super();
  }

  override async attributes(): Promise<Attributes> {
    const bytes = textOf(await this.produce()).length;
    return { bytes, blocks: blocksOf(bytes), nlink: 1, timeMs: Date.now() };
  }

  override async open(): Promise<OpenFile> {
    const value = await this.produce();
    const opened = this.news(value);
    return {
      source: bufferSource(textOf(value)),
      release: () => undefined,
      changed: async () => !isDeepStrictEqual(this.news(await this.produce()), opened),
    };
  }
}

function textOf(value: object): Buffer {
  const text = Buffer.from(JSON.stringify(value, null, 2));
  const bytes = Math.ceil((text.length + 1) / paddingBytes) * paddingBytes;
  const padded = Buffer.alloc(bytes, ' ');
  text.copy(padded);
  padded[bytes - 1] = 0x0a;
  return padded;
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
    native: buffer,
  };
}
