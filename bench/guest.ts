/**
 * The guest of the benchmarks: Debian's riscv64 kernel and the memory workload of test/guests/linux/memory.c,
 * byte for byte the same in ckptfs and in QEMU.
 */
import { readFileSync } from 'node:fs';
import { linuxGuest } from '../test/support/guests.js';
import type { ConsoleText } from './console.js';
import type { Progressing } from './progress.js';
import type { GuestRam } from './ram.js';

export const mib = 2 ** 20;
export const gib = 2 ** 30;

export interface Workload {
  memoryBytes: number;
  /** How much of it the workload fills before it is ready. */
  filledMib: number;
}

/** A guest whose workload fills all of RAM but what the kernel needs: itself, and a table of all pages. */
export function fullGuest(memoryBytes: number): Workload {
  const kernelMib = 112 + memoryBytes / mib / 16;
  return { memoryBytes, filledMib: memoryBytes / mib - kernelMib };
}

export function commandLine(workload: Workload): string {
  const fast = readFileSync(linuxGuest.cmdline, 'utf8').trim();
  return `${fast} ckptfs.mode=memory ckptfs.mib=${workload.filledMib}`;
}

/** The running workload: its progress, and what it is told to do. Owned by the system that runs it. */
export class MemoryGuest implements Progressing {
  constructor(
    readonly ram: GuestRam,
    readonly progressAddress: number,
    readonly console: ConsoleText,
    readonly send: (line: string) => void,
  ) {}

  steps(): number {
    return this.ram.steps(this.progressAddress);
  }

  /** Writes at random, evenly or by a Zipf distribution, over the first `writtenMib` of what it filled. */
  async write(pattern: 'random' | 'zipf', writtenMib: number): Promise<void> {
    this.send(`${pattern} ${writtenMib}\n`);
    await this.console.next(/ckptfs-guest: writing/);
  }

  async stop(): Promise<void> {
    this.send('stop\n');
    await this.console.next(/ckptfs-guest: stopped/);
  }

  /** Stops, and writes to so many memory blocks of 32 KiB, evenly spread. */
  async touch(blocks: number): Promise<void> {
    this.send(`touch ${blocks}\n`);
    await this.console.next(/ckptfs-guest: touched/);
  }
}

/** Waits for the workload's fill; the guest-physical address of its progress. */
export async function awaitFilled(console: ConsoleText): Promise<number> {
  const [, address = ''] = await console.next(
    /ckptfs-guest: memory mib=\d+ progress=([0-9a-f]+)\r?\n/,
  );
  if (Number.parseInt(address, 16) === 0) throw new Error('the guest cannot tell its progress');
  return Number.parseInt(address, 16);
}
