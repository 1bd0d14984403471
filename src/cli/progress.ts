/**
 * Progress of long work: a bar on stderr when that is a terminal, status objects with --json, else nothing.
 * A guard: stop() on every path (`using`).
 */
import type { SingleBar } from 'cli-progress';
import { Output } from './output.js';
import { formatSize } from './sizes.js';

const statusIntervalMs = 500;

export type ProgressUnit = 'bytes' | 'blocks';

export class Progress implements Disposable {
  readonly #output: Output;
  readonly #action: string;
  readonly #unit: ProgressUnit;
  readonly #bar: SingleBar | undefined;
  #lastStatusMs = -Infinity;

  private constructor(
    output: Output,
    action: string,
    unit: ProgressUnit,
    bar: SingleBar | undefined,
  ) {
    this.#output = output;
    this.#action = action;
    this.#unit = unit;
    this.#bar = bar;
  }

  /** `action` says what is being done, to amounts of what; `silent` when stdout is for something else. */
  static async begin(
    output: Output,
    action: string,
    unit: ProgressUnit,
    silent = false,
  ): Promise<Progress> {
    if (silent) return new Progress(new Output({ quiet: true }), action, unit, undefined);
    if (output.json || output.quiet || !process.stderr.isTTY) {
      return new Progress(output, action, unit, undefined);
    }
    const { default: cliProgress } = await import('cli-progress');
    const bar = new cliProgress.SingleBar({
      format: `${action} {bar} {percentage}% of {all}, {eta_formatted} left`,
      stream: process.stderr,
      clearOnComplete: true,
      hideCursor: true,
      // Ctrl-C is the command's to handle.
      gracefulExit: false,
    });
    bar.start(1, 0, { all: '' });
    return new Progress(output, action, unit, bar);
  }

  update(done: number, total: number): void {
    if (this.#bar) {
      const all = this.#unit === 'bytes' ? formatSize(total) : `${total} blocks`;
      this.#bar.setTotal(Math.max(total, 1));
      this.#bar.update(done, { all });
    } else if (this.#output.json && performance.now() - this.#lastStatusMs >= statusIntervalMs) {
      this.#lastStatusMs = performance.now();
      const amounts =
        this.#unit === 'bytes'
          ? { doneBytes: done, totalBytes: total }
          : { doneBlocks: done, totalBlocks: total };
      this.#output.status({ action: this.#action, ...amounts });
    }
  }

  /** Lets `print` write lines while the bar is shown. */
  aside(print: () => void): void {
    // The bar draws itself again at its next update.
    if (this.#bar) process.stderr.write('\r\x1b[K');
    print();
  }

  stop(): void {
    this.#bar?.stop();
  }

  [Symbol.dispose](): void {
    this.stop();
  }
}
