/**
 * Files that are still arriving from elsewhere while the addon reads them (native/base/arrival.h): of full size, with
 * holes where nothing has come. Whatever the addon opens of them waits for what it reads, on threads of its own; the
 * JavaScript thread never waits, and is refused by IO.
 */
import { call } from './calls.js';
import type { RawArrivals } from './raw.js';

/** What has come is told in these; the last one ends with its file. */
export const arrivalPieceBytes = 128 << 10;

/** What a reader waits for. */
export interface WantedRange {
  /** As add() has numbered it. */
  file: number;
  /** Whole pieces. */
  offset: number;
  bytes: number;
  /** The guest waits for it, and not what reads ahead for it. */
  urgent: boolean;
}

/** Ended by close(), from where on its files are read as they are. */
export class Arrivals {
  readonly #raw: RawArrivals;

  constructor(raw: RawArrivals) {
    this.#raw = raw;
  }

  /** From now on an open file, which has its size, is arriving; with the modification time that it is to have. */
  add(fd: number, mtimeNs = '0'): number {
    return call(() => this.#raw.add(fd, mtimeNs));
  }

  /** What readers have begun to wait for since the last call. */
  wanted(): WantedRange[] {
    const rows = JSON.parse(this.#raw.wanted()) as [number, number, number, boolean][];
    return rows.map(([file, offset, bytes, urgent]) => ({ file, offset, bytes, urgent }));
  }

  /** These pieces are in the file. */
  arrived(file: number, offset: number, bytes: number): void {
    call(() => this.#raw.arrived(file, offset, bytes));
  }

  /** Who waits is told that the rest will not come. */
  fail(): void {
    this.#raw.fail();
  }

  close(): void {
    this.#raw.close();
  }
}
