/**
 * The VMCOREINFO note of a Linux guest, found in its RAM: what crash and drgn need to know of the kernel.
 *
 * The kernel makes the note when it boots, as it would stand in a dump, at the beginning of pages of its own
 * (kernel/vmcore_info.c): so it is looked for at page boundaries, and taken for one only if all of it is in order.
 * What the guest has there is the guest's: a wrong note can mislead a debugger, and nobody else.
 */
import { CkptError } from '../errors.js';
import { type ByteSource, pageBuffer } from '../native.js';
import { maxVmcoreinfoBytes } from './elf_core.js';

const pageBytes = 4096;
const pieceBytes = 4 << 20;
/**
 * So much of RAM is looked through: some seconds. Linux fills memory from its beginning, and what lies above 4 GiB
 * (RAM begins at 2 GiB) before what lies below.
 */
const searchedBytes = 4 * 2 ** 30;

/** namesz, then after descsz: type and name, padded. */
const nameBytes = 11;
const typeAndName = Buffer.from('\0\0\0\0VMCOREINFO\0\0', 'latin1');
const textAt = 24;

/** The text of the note; undefined when the guest has none. Passes over what is damaged. */
export async function findVmcoreinfo(ram: ByteSource): Promise<Buffer | undefined> {
  const end = Math.min(ram.bytes, searchedBytes);
  // A note may go on in the next piece.
  const piece = pageBuffer(pieceBytes + pageBytes + textAt);
  for (let position = 0; position < end; position += pieceBytes) {
    const length = await readWhole(ram, piece, position);
    for (let at = 0; at < Math.min(length, pieceBytes); at += pageBytes) {
      const text = noteAt(piece.subarray(at, length));
      if (text !== undefined) return Buffer.from(text);
    }
  }
  return undefined;
}

/** The bytes read: none where RAM is damaged. */
async function readWhole(ram: ByteSource, piece: Buffer, position: number): Promise<number> {
  try {
    return await ram.read(piece, position);
  } catch (error) {
    if (error instanceof CkptError && error.code === 'DAMAGED') return 0;
    throw error;
  }
}

/** The text of a note that stands at the beginning of `bytes`. */
export function noteAt(bytes: Buffer): Buffer | undefined {
  if (bytes.length < textAt || bytes.readUInt32LE(0) !== nameBytes) return undefined;
  if (typeAndName.compare(bytes, 8, textAt) !== 0) return undefined;
  const length = bytes.readUInt32LE(4);
  if (length > maxVmcoreinfoBytes || length > bytes.length - textAt) return undefined;
  const text = bytes.subarray(textAt, textAt + length);
  // Lines of KEY=VALUE in ASCII.
  const lines = /^OSRELEASE=[^\n]+\n(?:[A-Z][\w().-]*=[\x20-\x7e]*\n)+$/;
  return lines.test(text.toString('latin1')) ? text : undefined;
}
