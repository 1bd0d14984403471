/**
 * The header of an ELF core file: what stands in front of RAM so that gdb, crash and drgn read it.
 *
 * ELF64, little-endian, ET_CORE, EM_RISCV: a PT_NOTE and one PT_LOAD for each range of RAM, whose bytes follow the
 * header in the same order. The notes are one NT_PRSTATUS for each hart, in the layout of Linux on riscv64, and
 * VMCOREINFO when it is given. The length depends on nothing but the counts of harts and ranges, so that the
 * size of a core file is known before its RAM has been looked at. Pure: bytes from values.
 *
 * Sources: System V ABI, ELF-64; Linux include/uapi/linux/elfcore.h, arch/riscv/include/uapi/asm/ptrace.h,
 * Documentation/admin-guide/kdump/vmcoreinfo.rst.
 */

/** Registers of a hart, as bits. */
export interface CoreHart {
  pc: bigint;
  /** x0 to x31. */
  x: readonly bigint[];
}

export interface CoreRange {
  /** Guest-physical. */
  address: number;
  bytes: number;
}

const elfHeaderBytes = 64;
const programHeaderBytes = 56;
const registers = 32;
/** elf_prstatus of riscv64: up to pr_reg 112 bytes, then 32 registers, pr_fpvalid and padding. */
const prstatusBytes = 376;
const prstatusPid = 32;
const prstatusRegisters = 112;
const pageBytes = 4096;
/** As the kernel limits it. */
export const maxVmcoreinfoBytes = pageBytes;
/**
 * RAM begins at a multiple of this: as its blocks have 32 KiB and a request of the kernel has a power of two, one
 * that is aligned in the file covers no more blocks than it would in flat RAM.
 */
const alignmentBytes = 64 << 10;

const typeCore = 4;
const machineRiscv = 243;
const segmentLoad = 1;
const segmentNote = 4;
const notePrstatus = 1;
const noteVmcoreinfo = 0;
/** Compressed instructions, floating-point arguments in registers of 64 bits: the ABI of Debian's riscv64. */
const flagsRvcDouble = 5;
const readWriteExecute = 7;

function noteBytes(name: string, bytes: number): number {
  return 12 + align(name.length + 1, 4) + align(bytes, 4);
}

function align(value: number, to: number): number {
  return Math.ceil(value / to) * to;
}

/** How many bytes stand in front of RAM. */
export function coreHeaderBytes(harts: number, ranges: number): number {
  const notes =
    harts * noteBytes('CORE', prstatusBytes) + noteBytes('VMCOREINFO', maxVmcoreinfoBytes);
  return align(elfHeaderBytes + (1 + ranges) * programHeaderBytes + notes, alignmentBytes);
}

/** The header; `vmcoreinfo` is the text of that note, at most {@link maxVmcoreinfoBytes}. */
export function coreHeader(
  harts: readonly CoreHart[],
  ranges: readonly CoreRange[],
  vmcoreinfo?: Uint8Array,
): Buffer {
  const notes = Buffer.concat([
    ...harts.map((hart, i) => note('CORE', notePrstatus, prstatus(hart, i + 1))),
    ...(vmcoreinfo === undefined ? [] : [note('VMCOREINFO', noteVmcoreinfo, vmcoreinfo)]),
  ]);
  const header = Buffer.alloc(coreHeaderBytes(harts.length, ranges.length));
  const notesAt = elfHeaderBytes + (1 + ranges.length) * programHeaderBytes;
  if (notesAt + notes.length > header.length) throw new Error('the notes of a core are too long');
  writeElfHeader(header, 1 + ranges.length);
  const segment = (index: number): Buffer =>
    header.subarray(elfHeaderBytes + index * programHeaderBytes);
  writeSegment(segment(0), { kind: segmentNote, at: notesAt, bytes: notes.length });
  let at = header.length;
  for (const [i, { address, bytes }] of ranges.entries()) {
    writeSegment(segment(1 + i), { kind: segmentLoad, at, bytes, address });
    at += bytes;
  }
  notes.copy(header, notesAt);
  return header;
}

function writeElfHeader(header: Buffer, segments: number): void {
  // Class 64, little-endian, version 1, no particular system.
  Buffer.from([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1, 0]).copy(header);
  header.writeUInt16LE(typeCore, 16);
  header.writeUInt16LE(machineRiscv, 18);
  header.writeUInt32LE(1, 20);
  header.writeBigUInt64LE(BigInt(elfHeaderBytes), 32); // e_phoff
  header.writeUInt32LE(flagsRvcDouble, 48);
  header.writeUInt16LE(elfHeaderBytes, 52);
  header.writeUInt16LE(programHeaderBytes, 54);
  header.writeUInt16LE(segments, 56);
}

interface Segment {
  kind: number;
  /** Where it begins in the file. */
  at: number;
  bytes: number;
  /** Of memory; notes have none. */
  address?: number;
}

function writeSegment(into: Buffer, { kind, at, bytes, address }: Segment): void {
  const inMemory = address !== undefined;
  into.writeUInt32LE(kind, 0);
  into.writeUInt32LE(inMemory ? readWriteExecute : 0, 4);
  const [start, length, alignment] = inMemory ? [address, bytes, pageBytes] : [0, 0, 4];
  const words = [at, start, start, bytes, length, alignment];
  for (const [i, word] of words.entries()) into.writeBigUInt64LE(BigInt(word), 8 + 8 * i);
}

function note(name: string, kind: number, contents: Uint8Array): Buffer {
  const bytes = Buffer.alloc(noteBytes(name, contents.length));
  bytes.writeUInt32LE(name.length + 1, 0);
  bytes.writeUInt32LE(contents.length, 4);
  bytes.writeUInt32LE(kind, 8);
  bytes.write(name, 12, 'latin1');
  bytes.set(contents, 12 + align(name.length + 1, 4));
  return bytes;
}

/** pc, then x1 to x31; no signal, and a process id that tells the harts apart. */
function prstatus({ pc, x }: CoreHart, pid: number): Buffer {
  const bytes = Buffer.alloc(prstatusBytes);
  bytes.writeInt32LE(pid, prstatusPid);
  for (let i = 0; i < registers; i++) {
    bytes.writeBigUInt64LE(i === 0 ? pc : (x[i] ?? 0n), prstatusRegisters + 8 * i);
  }
  return bytes;
}
