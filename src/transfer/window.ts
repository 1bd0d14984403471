/**
 * How much may be under way that nobody waits for, so that what somebody waits for comes soon after it: as much as
 * makes an answer some 50 ms late, which is what lies in buffers beside what fills the way.
 */
const leastBytes = 256 << 10;
const mostBytes = 8 << 20;
const lateMs = 50;
/** How slowly the shortest way is forgotten, in parts of itself for each answer. */
const forget = 0.001;

export class Window {
  #bytes = leastBytes;
  #shortestMs = Infinity;

  get bytes(): number {
    return this.#bytes;
  }

  /** An answer of so many bytes has come so long after it was asked for. */
  came(bytes: number, tookMs: number): void {
    this.#shortestMs = Math.min(this.#shortestMs * (1 + forget), tookMs);
    const isLate = tookMs > this.#shortestMs + lateMs;
    const next = isLate ? this.#bytes * 0.8 : this.#bytes + bytes / 2;
    this.#bytes = Math.min(mostBytes, Math.max(leastBytes, next));
  }
}
