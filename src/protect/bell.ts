/** A bell for one waiter: a ring that nobody waits for is heard by the next wait. */
export class Bell {
  #rung = false;
  #wake: () => void = () => undefined;

  ring(): void {
    this.#rung = true;
    this.#wake();
  }

  /** Resolves at the next ring, or when `signal` aborts; at once after one that was not heard. */
  async wait(signal: AbortSignal): Promise<void> {
    if (!this.#rung && !signal.aborted) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
        signal.addEventListener('abort', this.#wake);
      });
      signal.removeEventListener('abort', this.#wake);
    }
    this.#rung = false;
  }
}
