/** Which pieces of a file: numbers from 0, a bit each. */
export class PieceSet {
  readonly bits: Uint8Array;
  #count = 0;

  /** `bits`: as of another set of that size. */
  constructor(
    readonly size: number,
    bits?: Uint8Array,
  ) {
    this.bits = new Uint8Array(Math.ceil(size / 8));
    if (bits === undefined) return;
    for (let piece = nextSet(bits, 0, size); piece < size; piece = nextSet(bits, piece + 1, size)) {
      this.add(piece);
    }
  }

  get count(): number {
    return this.#count;
  }

  has(piece: number): boolean {
    return isSet(this.bits, piece);
  }

  /** False: it is in it already. */
  add(piece: number): boolean {
    if (this.has(piece)) return false;
    this.#flip(piece);
    this.#count++;
    return true;
  }

  delete(piece: number): void {
    if (!this.has(piece)) return;
    this.#flip(piece);
    this.#count--;
  }

  /** The first from `from` on that is not in it; `size` when there is none. */
  nextAbsent(from: number): number {
    let piece = from;
    while (piece < this.size) {
      if ((piece & 7) === 0 && this.bits[piece >> 3] === 0xff) piece += 8;
      else if (this.has(piece)) piece++;
      else return piece;
    }
    return this.size;
  }

  /** The runs of those that are in it. */
  *runs(): Generator<{ first: number; end: number }> {
    for (let end = 0; ;) {
      const first = nextSet(this.bits, end, this.size);
      if (first === this.size) return;
      end = this.nextAbsent(first);
      yield { first, end };
    }
  }
  #flip(piece: number): void {
    this.bits[piece >> 3] = (this.bits[piece >> 3] ?? 0) ^ (1 << (piece & 7));
  }
}

function isSet(bits: Uint8Array, piece: number): boolean {
  return ((bits[piece >> 3] ?? 0) & (1 << (piece & 7))) !== 0;
}

/** The first from `from` on that is set; `size` when there is none. */
function nextSet(bits: Uint8Array, from: number, size: number): number {
  let piece = from;
  while (piece < size) {
    if ((piece & 7) === 0 && bits[piece >> 3] === 0) piece += 8;
    else if (isSet(bits, piece)) return piece;
    else piece++;
  }
  return size;
}
