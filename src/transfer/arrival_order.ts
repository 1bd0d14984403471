/**
 * In which order the pieces of files that arrive are asked for.
 *
 * First what readers wait for: the guest's wants before those of who reads ahead for it. Then the rest: from where who
 * reads ahead has come to, since that follows the order in which guests needed memory; and else the files in the order
 * in which they were given. Every piece is asked for once, unless the answer is lost.
 *
 * Only bookkeeping; the caller moves the bytes.
 */
import { arrivalPieceBytes as pieceBytes } from '../native.js';
import { PieceSet } from './piece_set.js';

/** A range of whole pieces of one file, which may end with the file. */
export interface Ask {
  file: number;
  offset: number;
  bytes: number;
  /** Nobody waits for it. */
  isAhead: boolean;
}

interface Wish {
  file: number;
  next: number;
  end: number;
}

/** Of what nobody waits for at most so much at once, so that what somebody waits for comes soon after. */
const aheadPieces = 4;

export class ArrivalOrder {
  readonly #files: { here: PieceSet; claimed: PieceSet; bytes: number }[];
  readonly #urgent: Wish[] = [];
  readonly #patient: Wish[] = [];
  /** Where reading goes on. */
  #file = 0;
  #piece = 0;

  /** `here`: what has come of each file; it grows by came(). */
  constructor(
    files: readonly { here: PieceSet; bytes: number }[],
    private readonly maxAskPieces: number,
  ) {
    this.#files = files.map(({ here, bytes }) => ({
      ...{ here, bytes },
      claimed: new PieceSet(here.size, here.bits),
    }));
  }

  get isWhole(): boolean {
    return this.#files.every(({ here }) => here.count === here.size);
  }

  /** Somebody waits for these bytes. */
  want(file: number, offset: number, bytes: number, urgent: boolean): void {
    const next = Math.floor(offset / pieceBytes);
    const wish = { file, next, end: Math.ceil((offset + bytes) / pieceBytes) };
    (urgent ? this.#urgent : this.#patient).push(wish);
  }

  /** What to ask for next; with `ahead` also what nobody waits for. Undefined: nothing for now. */
  next(ahead: boolean): Ask | undefined {
    const wanted = this.#take(this.#urgent);
    if (wanted) return wanted;
    const patient = this.#take(this.#patient);
    if (patient) {
      this.#file = patient.file;
      this.#piece = (patient.offset + patient.bytes) / pieceBytes;
      return patient;
    }
    return ahead ? this.#ahead() : undefined;
  }

  /** The answer is in the file. */
  came({ file, offset, bytes }: Ask): void {
    const here = this.#files[file]?.here;
    for (let at = offset; at < offset + bytes; at += pieceBytes) here?.add(at / pieceBytes);
  }

  /** The answer is lost: it is asked for again, at once if somebody waits for it. */
  lost({ file, offset, bytes, isAhead }: Ask): void {
    const claimed = this.#files[file]?.claimed;
    for (let at = offset; at < offset + bytes; at += pieceBytes) claimed?.delete(at / pieceBytes);
    if (isAhead) this.#file = this.#piece = 0;
    else this.want(file, offset, bytes, true);
  }

  /** The next of what is wished for; of what has been asked for already, nothing. */
  #take(wishes: Wish[]): Ask | undefined {
    for (let wish = wishes[0]; wish !== undefined; wish = wishes[0]) {
      const ask = this.#claim(wish.file, wish.next, wish.end, this.maxAskPieces, false);
      if (!ask) wishes.shift();
      else wish.next = Math.ceil((ask.offset + ask.bytes) / pieceBytes);
      if (ask) return ask;
    }
    return undefined;
  }

  #ahead(): Ask | undefined {
    const from = this.#claim(this.#file, this.#piece, Infinity, aheadPieces, true);
    if (from) return this.#reached(from);
    for (let file = 0; file < this.#files.length; file++) {
      const ask = this.#claim(file, 0, Infinity, aheadPieces, true);
      if (ask) return this.#reached(ask);
    }
    return undefined;
  }

  #reached(ask: Ask): Ask {
    this.#file = ask.file;
    this.#piece = Math.ceil((ask.offset + ask.bytes) / pieceBytes);
    return ask;
  }

  /** The first run from `from` on, before `until`, that nobody has asked for. */
  #claim(
    file: number,
    from: number,
    until: number,
    most: number,
    isAhead: boolean,
  ): Ask | undefined {
    const known = this.#files[file];
    if (!known) return undefined;
    const { claimed, bytes } = known;
    const end = Math.min(until, claimed.size);
    const first = claimed.nextAbsent(from);
    if (first >= end) return undefined;
    let last = first;
    while (last < Math.min(end, first + most) && claimed.add(last)) last++;
    const offset = first * pieceBytes;
    return { file, offset, bytes: Math.min(last * pieceBytes, bytes) - offset, isAhead };
  }
}
