/**
 * What a guest starts from: a Linux Image, an ELF file, and an optional initramfs, placed in RAM.
 *
 * Only headers are read here; the addon copies the bytes from the files straight into guest memory.
 * Sources: Linux Documentation/arch/riscv/boot-image-header.rst; System V ABI, ELF-64.
 */
import { open, stat } from 'node:fs/promises';
import { CkptError } from '../errors.js';
import type { NativeMachine } from '../native.js';
import type { VmConfig } from '../types.js';
import { describeMachine, flatten, memoryMap } from './devicetree.js';

/** One piece of a file that belongs at a guest-physical address. */
export interface Piece {
  path: string;
  fileOffset: number;
  bytes: number;
  address: number;
}

export interface Kernel {
  entry: number;
  pieces: Piece[];
  /** First guest-physical address after everything the kernel occupies, its zeroed data included. */
  end: number;
}

export interface BootPlan {
  entry: number;
  pieces: Piece[];
  initrd?: { start: number; end: number };
  /** Where the device tree goes. */
  deviceTree: number;
}

const imageMagic = 0x05435352; // "RSC\x05" at offset 0x38
const elfMagic = 0x464c457f;
const maxProgramHeaders = 64;
const twoMiB = 2 << 20;
/** Room for the device tree at the end of RAM: Linux maps at most 2 MiB of it, ours is some KiB. */
const deviceTreeBytes = 64 << 10;

/** 256 bits, as much as Linux takes. */
const rngSeedCells = 8;

/** Opens a boot file, or tells in one line why it cannot be. */
async function openBootFile(path: string, what: string) {
  try {
    const file = await open(path, 'r');
    const info = await file.stat();
    if (info.isFile()) return { file, bytes: info.size };
    await file.close();
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code === 'ENOENT') {
      throw new CkptError('NOT_FOUND', `${what} ${path} does not exist; check the path`, { path });
    }
    throw new CkptError('IO', `${what} ${path} cannot be read (${code}); check its permissions`, {
      path,
    });
  }
  throw new CkptError('USAGE', `${what} ${path} is not a regular file`, { path });
}

/** Reads the header of a kernel and says where its parts go. */
export async function planKernel(path: string): Promise<Kernel> {
  const { file, bytes } = await openBootFile(path, 'kernel');
  try {
    const header = Buffer.alloc(64);
    const { bytesRead } = await file.read(header, 0, header.length, 0);
    if (bytesRead === header.length) {
      if (header.readUInt32LE(0) === elfMagic) return await planElf(path, file, header, bytes);
      if (header.readUInt32LE(0x38) === imageMagic) return planImage(path, header, bytes);
    }
  } finally {
    await file.close();
  }
  throw new CkptError(
    'USAGE',
    `kernel ${path} is neither a RISC-V Linux Image nor an ELF file; ` +
      'use the uncompressed Image (vmlinux-* of Debian) or a riscv64 ELF',
    { path },
  );
}

function planImage(path: string, header: Buffer, bytes: number): Kernel {
  const textOffset = Number(header.readBigUInt64LE(8));
  const imageBytes = Number(header.readBigUInt64LE(16));
  const address = memoryMap.ramBase + textOffset;
  if (textOffset > 2 ** 30 || imageBytes > 2 ** 32) {
    throw new CkptError('USAGE', `kernel ${path} has an impossible Image header`, { path });
  }
  return {
    entry: address,
    pieces: [{ path, fileOffset: 0, bytes, address }],
    end: address + Math.max(imageBytes, bytes),
  };
}

async function planElf(
  path: string,
  file: Awaited<ReturnType<typeof open>>,
  header: Buffer,
  bytes: number,
): Promise<Kernel> {
  const bad = (what: string) => new CkptError('USAGE', `kernel ${path}: ${what}`, { path });
  const is64LittleRiscv =
    header[4] === 2 && header[5] === 1 && header.readUInt16LE(18) === 243; /* EM_RISCV */
  if (!is64LittleRiscv) throw bad('not a 64-bit little-endian RISC-V ELF file');
  const entry = Number(header.readBigUInt64LE(24));
  const offset = Number(header.readBigUInt64LE(32));
  const size = header.readUInt16LE(54);
  const count = header.readUInt16LE(56);
  if (size < 56 || count === 0 || count > maxProgramHeaders || offset > bytes - size * count) {
    throw bad('its program headers are out of range');
  }
  const table = Buffer.alloc(size * count);
  await file.read(table, 0, table.length, offset);
  const pieces: Piece[] = [];
  let end = 0;
  for (let i = 0; i < count; i++) {
    const ph = table.subarray(i * size, (i + 1) * size);
    if (ph.readUInt32LE(0) !== 1 /* PT_LOAD */) continue;
    const fileOffset = Number(ph.readBigUInt64LE(8));
    const address = Number(ph.readBigUInt64LE(24));
    const fileBytes = Number(ph.readBigUInt64LE(32));
    const memBytes = Number(ph.readBigUInt64LE(40));
    if (fileOffset + fileBytes > bytes || fileBytes > memBytes) {
      throw bad('a segment lies outside the file');
    }
    if (fileBytes > 0) pieces.push({ path, fileOffset, bytes: fileBytes, address });
    end = Math.max(end, address + memBytes);
  }
  if (pieces.length === 0) throw bad('it has nothing to load');
  return { entry, pieces, end };
}

/**
 * Places kernel, initramfs and device tree in `memoryBytes` of RAM: the kernel where it asks to be, the
 * device tree at the end, the initramfs right below it. USAGE when they do not fit.
 */
export async function planBoot(
  memoryBytes: number,
  kernelPath: string,
  initrdPath?: string,
): Promise<BootPlan> {
  const ramEnd = memoryMap.ramBase + memoryBytes;
  const kernel = await planKernel(kernelPath);
  const pieces = [...kernel.pieces];
  const deviceTree = ramEnd - deviceTreeBytes;
  let free = deviceTree;
  let initrd: BootPlan['initrd'];
  if (initrdPath !== undefined) {
    const { file } = await openBootFile(initrdPath, 'initramfs');
    await file.close();
    const bytes = (await stat(initrdPath)).size;
    const start = Math.floor((deviceTree - bytes) / twoMiB) * twoMiB;
    initrd = { start, end: start + bytes };
    pieces.push({ path: initrdPath, fileOffset: 0, bytes, address: start });
    free = start;
  }
  const lowest = Math.min(...pieces.map((piece) => piece.address));
  if (kernel.end > free || lowest < memoryMap.ramBase) {
    const need = kernel.end - memoryMap.ramBase + (ramEnd - free);
    throw new CkptError(
      'USAGE',
      lowest < memoryMap.ramBase
        ? `kernel ${kernelPath} wants to be loaded below RAM, which starts at 0x80000000`
        : `guest memory of ${memoryBytes >> 20} MiB is too small for kernel and initramfs; ` +
            `use --memory ${Math.ceil(need / twoMiB) * 2}M or more`,
      { kernel: kernelPath, memoryBytes },
    );
  }
  return { entry: kernel.entry, pieces, ...(initrd ? { initrd } : {}), deviceTree };
}

/** Puts what `plan` names, and the device tree, into guest RAM, and the vCPUs in front of it. */
export function loadGuest(machine: NativeMachine, config: VmConfig, plan: BootPlan): void {
  for (const { path, fileOffset, bytes, address } of plan.pieces) {
    machine.loadFile(path, fileOffset, bytes, address);
  }
  const tree = describeMachine({
    memoryBytes: config.memoryBytes,
    cpus: config.cpus,
    virtioSlots: config.disks.length + 1,
    bootargs: config.append,
    rngSeed: [...crypto.getRandomValues(new Uint32Array(rngSeedCells))],
    ...(plan.initrd ? { initrd: plan.initrd } : {}),
  });
  machine.load(plan.deviceTree, flatten(tree));
  machine.boot(plan.entry, plan.deviceTree);
}
