/**
 * Guest RAM as the host has it, and the guest's progress in it.
 *
 * The host reads the guest's own counter with pread(): through the memory file that RAM is in for ckptfs, and through
 * /proc/PID/mem for QEMU, whose RAM is private memory unless it is told otherwise. That costs the guest nothing,
 * waits for no lock of either system, and tells when a guest stands still to the millisecond; lines on the
 * console would measure the UART and its locks as well. A block that a lazy restore has not loaded yet reads as
 * zeros.
 */
import { closeSync, fstatSync, openSync, readdirSync, readlinkSync, readSync } from 'node:fs';

/** Both machines have RAM there. */
export const ramStart = 0x8000_0000;
const progressMagic = 0x7373657267c0ffeen;

export class GuestRam {
  readonly #file: number;
  readonly #word = Buffer.alloc(16);

  /** RAM begins at byte `start` of the file at `path`. */
  private constructor(
    readonly path: string,
    private readonly start: number,
  ) {
    this.#file = openSync(path, 'r');
  }

  /** The one nameless file in memory of `bytes` bytes that this process has open. */
  static own(bytes: number): GuestRam {
    const found = new Map<number, string>();
    for (const name of readdirSync('/proc/self/fd')) {
      const path = `/proc/${process.pid}/fd/${name}`;
      try {
        if (!/^\/(memfd:.*|#\d+) \(deleted\)$/.test(readlinkSync(path))) continue;
        const { size, ino } = fstatSync(Number(name));
        if (size === bytes) found.set(ino, path);
      } catch {
        // Closed in the meantime.
      }
    }
    const [path] = found.values();
    if (path === undefined || found.size > 1) {
      throw new Error(`there are ${found.size} memory files of ${bytes} bytes, not the guest's`);
    }
    return new GuestRam(path, 0);
  }

  /** RAM that stands at `start` in the memory of another process. */
  static at(pid: number, start: number): GuestRam {
    return new GuestRam(`/proc/${pid}/mem`, start);
  }

  /** Steps that the guest has made by the counter at a guest-physical address; 0 while it is not there. */
  steps(address: number): number {
    readSync(this.#file, this.#word, 0, this.#word.length, this.start + address - ramStart);
    if (this.#word.readBigUInt64LE(0) !== progressMagic) return 0;
    return Number(this.#word.readBigUInt64LE(8));
  }

  close(): void {
    closeSync(this.#file);
  }
}
