/**
 * What is measured alike for a chain of redo logs and for a qcow2 overlay over the same parent: a number of
 * requests of one size, some at a time, each at a fixed step from the one before, modulo the size of the disk.
 * Each system is a process of its own that ends with its data durable, and says how long its requests took.
 *
 * Ours is native/bench/disk.cc, whose threads call the chain as the workers of virtio-blk do; the peer is
 * `qemu-img bench`, whose event loop calls the qcow2 driver as that of a VM does. Both go through the page cache.
 */
import { execFile } from 'node:child_process';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { run } from './command.js';

const root = fileURLToPath(new URL('../..', import.meta.url));
const driver = join(root, 'build/native-test/plain/disk-bench');
const fillingByte = '0x5a';

export interface Requests {
  count: number;
  bytes: number;
  /** From one request to the next; the peer knows no other order. */
  stepBytes: number;
  /** How many are under way at a time. */
  depth: number;
}

export interface Took {
  /** All requests, as the system says. */
  requestsS: number;
  /** The whole process, from its start until it has made its data durable and ended. */
  processS: number;
}

/** Writes to a fresh overlay, then reads from it. */
export interface DiskSystem {
  name: string;
  write(requests: Requests): Promise<Took>;
  read(requests: Requests): Promise<Took>;
  /** Writes what the overlay holds to the parent, until that is durable. */
  commit(): Promise<Took>;
  remove(): Promise<void>;
}

/** Runs a program to its end; what it prints, and how long it took. */
async function timed(
  program: string,
  args: readonly string[],
): Promise<{ output: string; seconds: number }> {
  const began = performance.now();
  const output = await run(program, args);
  return { output, seconds: (performance.now() - began) / 1000 };
}

export async function buildDriver(): Promise<void> {
  await promisify(execFile)('make', ['-s', '-C', join(root, 'native'), 'disk-bench']);
}

/** Seconds of what the driver was told to do, and of all of it. */
export async function drive(args: string[]): Promise<Took> {
  const { output, seconds } = await timed(driver, args);
  const { seconds: requestsS } = JSON.parse(output) as { seconds: number };
  return { requestsS, processS: seconds };
}

export function requestArgs({ count, bytes, stepBytes, depth }: Requests): string[] {
  return [count, bytes, stepBytes, depth].map(String);
}

export class RedoLog implements DiskSystem {
  readonly name = 'ckptfs';
  readonly #log: string;

  constructor(private readonly parent: string) {
    this.#log = `${parent}.redo`;
  }

  write(requests: Requests): Promise<Took> {
    return drive(['write', ...requestArgs(requests), this.parent, this.#log]);
  }

  read(requests: Requests): Promise<Took> {
    return drive(['read', ...requestArgs(requests), this.parent, this.#log]);
  }

  commit(): Promise<Took> {
    return drive(['commit', this.parent, this.#log]);
  }

  remove(): Promise<void> {
    return rm(this.#log, { force: true });
  }
}

export class Qcow2 implements DiskSystem {
  readonly name = 'qcow2';
  readonly #overlay: string;

  constructor(private readonly parent: string) {
    this.#overlay = `${parent}.qcow2`;
  }

  async write(requests: Requests): Promise<Took> {
    const create = ['create', '-q', '-f', 'qcow2', '-b', this.parent, '-F', 'raw', this.#overlay];
    await run('qemu-img', create);
    return this.#bench(requests, ['-w', `--pattern=${fillingByte}`]);
  }

  read(requests: Requests): Promise<Took> {
    return this.#bench(requests, []);
  }

  // io_uring was the faster of its two ways through the page cache at every depth.
  async #bench({ count, bytes, stepBytes, depth }: Requests, how: string[]): Promise<Took> {
    const { output, seconds } = await timed('qemu-img', [
      ...['bench', '-f', 'qcow2', '-t', 'writeback', '-i', 'io_uring', ...how],
      ...['-c', `${count}`, '-s', `${bytes}`, '-S', `${stepBytes}`, '-d', `${depth}`],
      this.#overlay,
    ]);
    const [, requestsS] = /completed in ([\d.]+) seconds/.exec(output) ?? [];
    if (requestsS === undefined) throw new Error(`qemu-img bench tells no time: ${output}`);
    return { requestsS: Number(requestsS), processS: seconds };
  }

  async commit(): Promise<Took> {
    const { seconds } = await timed('qemu-img', ['commit', '-q', '-f', 'qcow2', this.#overlay]);
    return { requestsS: seconds, processS: seconds };
  }

  remove(): Promise<void> {
    return rm(this.#overlay, { force: true });
  }
}
