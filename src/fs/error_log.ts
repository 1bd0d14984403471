/**
 * The log of a mount: one line for each failure behind an EIO. Readers can cause failures as fast as they
 * like, and the kernel asks several times for a page, so a line is told once a minute and a minute has a
 * limit. `debug` shows all of them.
 */
import createDebug from 'debug';

const debug = createDebug('ckptfs:fs');
const windowMs = 60_000;
const maxLines = 1000;

export class ErrorLog {
  readonly #told = new Set<string>();
  #windowEndMs = 0;

  /** `now` is a clock in ms. */
  constructor(
    readonly tell: (line: string) => void,
    readonly now: () => number = () => performance.now(),
  ) {}

  write(text: string): void {
    // eslint-disable-next-line no-control-regex -- a message stays one line whatever is in it
    const line = text.replace(/[\u0000-\u001f\u007f]+/g, ' ');
    debug('%s', line);
    if (this.now() >= this.#windowEndMs) {
      this.#told.clear();
      this.#windowEndMs = this.now() + windowMs;
    }
    if (this.#told.has(line) || this.#told.size > maxLines) return;
    this.#told.add(line);
    this.tell(this.#told.size > maxLines ? 'more failures than can be told in a minute' : line);
  }
}
