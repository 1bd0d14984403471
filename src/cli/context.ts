/**
 * What every command starts from: the global options, the store they name, the output, and Ctrl-C.
 */
import { constants } from 'node:os';
import { resolve } from 'node:path';
import type { Command } from 'commander';
import type { Store } from '../checkpoint/store.js';
import { defaultStorePath } from '../checkpoint/location.js';
import type { VmClient } from '../vmm/client.js';
import { CkptError, exitCodes } from '../errors.js';
import { Output, type OutputOptions } from './output.js';

interface GlobalOptions extends OutputOptions {
  store?: string;
}

export class Context {
  readonly output: Output;
  readonly #store: string | undefined;
  readonly #interrupt = new AbortController();
  #interruptible = false;

  constructor(options: GlobalOptions) {
    this.output = new Output(options);
    this.#store = options.store;
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
      process.on(signal, () => this.#onInterrupt(128 + constants.signals[signal]));
    }
  }

  /** The exit code after an interruption: 130 for Ctrl-C, 128 and the signal's number for others. */
  interruptCode: number = exitCodes.interrupted;

  /** Aborted by Ctrl-C and by SIGTERM or SIGHUP. A command that asks for it ends its own work; any other just ends. */
  get signal(): AbortSignal {
    this.#interruptible = true;
    return this.#interrupt.signal;
  }

  /** Where the store is or would be. */
  get storePath(): string {
    return resolve(this.#store ?? defaultStorePath());
  }

  /** The store of --store, $CKPTFS_STORE or the user's data directory; made only with `create`. */
  async openStore(options: { create?: boolean } = {}): Promise<Store> {
    const { Store } = await import('../checkpoint/store.js');
    return Store.open(this.storePath, options);
  }

  /** A client of a running VM. NOT_FOUND when there is no such VM or it is not running. */
  async connect(store: Store, vm: string): Promise<VmClient> {
    await store.needVm(vm);
    const { VmClient } = await import('../vmm/client.js');
    return VmClient.connect(vm, store.controlSocket(vm));
  }

  /** Whatever an interrupted operation failed with (a torn connection, say), the interruption is why. */
  afterInterrupt(error: unknown): unknown {
    if (!this.#interrupt.signal.aborted || error instanceof CkptError) return error;
    return new CkptError('CANCELLED', 'interrupted', {}, { cause: error });
  }

  #onInterrupt(code: number): void {
    // The second Ctrl-C does not wait for the first to be heard.
    if (!this.#interruptible || this.#interrupt.signal.aborted) process.exit(code);
    this.interruptCode = code;
    this.#interrupt.abort();
  }
}

/**
 * The action of a command: makes the context from the command's global options and hands over the
 * arguments and the command's own options. The handler's number is the exit code.
 */
export function withContext(
  handler: (context: Context, options: never, ...args: never[]) => Promise<number | undefined>,
): (this: Command, ...args: unknown[]) => Promise<void> {
  return async function (this: Command, ...args: unknown[]): Promise<void> {
    const context = new Context(this.optsWithGlobals<GlobalOptions>());
    // commander calls with the declared arguments, then the options, then the command; a handler's types
    // are what its command declares, which the compiler cannot see.
    const declared = args.slice(0, -2) as never[];
    try {
      const code = await handler(context, this.opts<never>(), ...declared);
      if (code !== undefined) process.exitCode = code;
    } catch (error) {
      throw context.afterInterrupt(error);
    }
  };
}
