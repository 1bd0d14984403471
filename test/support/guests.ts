/**
 * VMs for tests and benchmarks: temporary stores, the guests that scripts/guest makes, and waiting for
 * what a guest prints or how it ends. Nothing here waits on a clock but the deadlines that fail a test.
 */
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { Store } from '../../src/checkpoint/store.js';
import type { GuestExit } from '../../src/native.js';
import type { VmConfigInput } from '../../src/types.js';
import { Vm } from '../../src/vmm/vm.js';

const mib = 2 ** 20;
/** Where scripts/guest leaves kernels and guests; this file runs as dist/test/support/guests.js. */
const cache = fileURLToPath(new URL('../../../.cache/guest/', import.meta.url));
const defaultDeadlineMs = 120_000;
const pollMs = 5;

export const linuxGuest = {
  kernel: join(cache, 'Image'),
  initrd: join(cache, 'initramfs.cpio'),
  disk: join(cache, 'disk.img'),
  /** Kernel command line that leaves out what a VM has no use for. */
  cmdline: join(cache, 'cmdline'),
};

export function bareGuest(name: string): string {
  return join(cache, 'bare', `${name}.elf`);
}

/** A directory of its own for a test; remove() takes everything with it. */
export async function temporaryDirectory(): Promise<{ path: string; remove: () => Promise<void> }> {
  const path = await mkdtemp(join(tmpdir(), 'ckptfs-test-'));
  return { path, remove: () => rm(path, { recursive: true, force: true }) };
}

export async function temporaryStore(): Promise<{ store: Store; remove: () => Promise<void> }> {
  const { path, remove } = await temporaryDirectory();
  return { store: await Store.open(join(path, 'store'), { create: true }), remove };
}

/** The configuration of a VM that runs a bare-metal guest. */
export function bareConfig(
  guest: string,
  append: string,
  options: VmConfigInput = {},
): VmConfigInput {
  return { kernel: bareGuest(guest), append, memoryBytes: 16 * mib, ...options };
}

/** The Linux guest with a shell on its console, of 128 MiB. */
export async function shellConfig(options: VmConfigInput = {}): Promise<VmConfigInput> {
  const { kernel, initrd, cmdline } = linuxGuest;
  const append = `${(await readFile(cmdline, 'utf8')).trim()} ckptfs.mode=shell`;
  return { kernel, initrd, append, memoryBytes: 128 * mib, ...options };
}

/** Types a command at the shell of a guest, and resolves with what it prints. */
export async function sh(vm: Vm, watch: Watch, command: string): Promise<string> {
  const id = Math.random().toString(36).slice(2);
  // What the shell echoes of the line has the quotes in it.
  vm.consoleInput(Buffer.from(`echo b''${id}; ${command}; echo e''${id}\n`));
  const [, printed = ''] = await watch.printed(new RegExp(`b${id}\\r?\\n([^]*?)e${id}`));
  return printed.replaceAll('\r', '').trim();
}

/** What a VM prints, from the moment of the call on, and how it ends. */
export class Watch {
  text = '';
  exit: GuestExit | undefined;
  error: Error | undefined;
  #waiting: (() => void)[] = [];

  constructor(vm: Vm) {
    vm.on('console', (data) => {
      this.text += data.toString('latin1');
      this.#wake();
    });
    vm.on('exit', (exit) => {
      this.exit = exit;
      this.#wake();
    });
    vm.on('error', (error) => {
      this.error = error;
      this.#wake();
    });
  }

  #wake(): void {
    for (const waiting of this.#waiting.splice(0)) waiting();
  }

  /** Resolves with the first match of `pattern`; rejects at the guest's end or the deadline. */
  printed(pattern: RegExp, deadlineMs = defaultDeadlineMs): Promise<RegExpExecArray> {
    return this.#until(() => pattern.exec(this.text), `print ${pattern.source}`, deadlineMs);
  }

  ended(deadlineMs = defaultDeadlineMs): Promise<GuestExit> {
    return this.#until(() => this.exit, 'end', deadlineMs);
  }

  failed(deadlineMs = defaultDeadlineMs): Promise<Error> {
    return this.#until(() => this.error, 'fail', deadlineMs);
  }

  async #until<T>(find: () => T | null | undefined, what: string, deadlineMs: number): Promise<T> {
    for (const deadline = Date.now() + deadlineMs; ;) {
      const found = find();
      if (found !== null && found !== undefined) return found;
      const leftMs = deadline - Date.now();
      if (this.exit || leftMs <= 0) {
        const why = this.exit ? 'it ended' : 'deadline';
        throw new Error(`the guest did not ${what} (${why}): ${this.text.slice(-400)}`);
      }
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, leftMs);
        this.#waiting.push(() => {
          clearTimeout(timer);
          resolve();
        });
      });
    }
  }
}

/** Resolves when `holds` does; rejects at the deadline. */
export async function until(
  what: string,
  holds: () => boolean | Promise<boolean>,
  deadlineMs = defaultDeadlineMs,
): Promise<void> {
  for (const deadline = Date.now() + deadlineMs; !(await holds());) {
    if (Date.now() > deadline) throw new Error(`deadline: ${what}`);
    await sleep(pollMs);
  }
}

/** Creates a VM, starts it, and watches it from its first byte. */
export async function boot(store: Store, config: VmConfigInput): Promise<{ vm: Vm; watch: Watch }> {
  const vm = await Vm.create(store, config);
  const watch = new Watch(vm);
  await vm.start();
  return { vm, watch };
}
