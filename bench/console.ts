/** What a guest prints, searched from where the last search ended. */
const defaultDeadlineMs = 300_000;

export class ConsoleText {
  #text = '';
  #ended = false;
  #wake: () => void = () => {};

  feed(data: Buffer): void {
    this.#text += data.toString('latin1');
    this.#wake();
  }

  /** The guest prints nothing more: whoever waits is told. */
  end(): void {
    this.#ended = true;
    this.#wake();
  }

  /** The next match of `pattern`; what stands before it is forgotten. */
  async next(pattern: RegExp, deadlineMs = defaultDeadlineMs): Promise<RegExpExecArray> {
    const deadline = performance.now() + deadlineMs;
    for (;;) {
      const found = pattern.exec(this.#text);
      if (found) {
        this.#text = this.#text.slice(found.index + found[0].length);
        return found;
      }
      const leftMs = deadline - performance.now();
      if (this.#ended || leftMs <= 0) {
        const why = this.#ended ? 'it ended' : 'deadline';
        throw new Error(`the guest did not print ${pattern.source} (${why}): ${this.#text}`);
      }
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, leftMs);
        this.#wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
  }
}
