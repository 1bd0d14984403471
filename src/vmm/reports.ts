/**
 * What a VM's process leaves in files for readers without its socket: console.log and status.json. Reports
 * only: a failure to write one is logged and harms nothing.
 */
import { createWriteStream, type WriteStream } from 'node:fs';
import createDebug from 'debug';
import { replaceFile } from '../checkpoint/files.js';
import type { VmStatus } from '../types.js';

const debug = createDebug('ckptfs:vm');
const maxConsoleLogBacklogBytes = 4 << 20;

/** What the guest prints, appended. */
export class ConsoleLog {
  readonly #file: WriteStream;

  constructor(path: string) {
    this.#file = createWriteStream(path, { flags: 'a', mode: 0o600 });
    this.#file.on('error', (error) => debug('console.log: %o', error));
  }

  write(data: Buffer): void {
    // Storage that hangs must not fill the host's memory: what a guest prints then is lost.
    if (this.#file.writableLength < maxConsoleLogBacklogBytes) this.#file.write(data);
  }

  /** Resolves when all is written. */
  end(): Promise<void> {
    return new Promise<void>((resolve) => this.#file.end(resolve));
  }
}

/** The last known status; one write after the other. */
export class StatusFile {
  readonly #path: string;
  #written: Promise<void> = Promise.resolve();

  constructor(path: string) {
    this.#path = path;
  }

  write(status: VmStatus): Promise<void> {
    const text = `${JSON.stringify(status, null, 2)}\n`;
    this.#written = this.#written
      .then(() => replaceFile(this.#path, text))
      .catch((error: unknown) => debug('status.json: %o', error));
    return this.#written;
  }
}
