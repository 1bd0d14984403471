/**
 * A client of QEMU's machine protocol over a Unix socket: commands one after the other, and events with
 * QEMU's own time stamps.
 */
import { createConnection, type Socket } from 'node:net';
import { createInterface } from 'node:readline';

export interface QmpEvent {
  event: string;
  data?: { status?: string };
  /** QEMU's clock when it happened, in µs. */
  atUs: number;
}

interface Message {
  return?: unknown;
  error?: { desc: string };
  event?: string;
  data?: QmpEvent['data'];
  timestamp?: { seconds: number; microseconds: number };
}

const eventDeadlineMs = 300_000;

export class Qmp {
  readonly #socket: Socket;
  #events: QmpEvent[] = [];
  #answers: { resolve: (value: unknown) => void; reject: (error: Error) => void }[] = [];
  #wake: () => void = () => {};
  #closed = false;

  private constructor(socket: Socket) {
    this.#socket = socket;
    createInterface(socket).on('line', (line) => this.#onMessage(JSON.parse(line) as Message));
    socket.on('error', () => this.#onClose());
    socket.on('close', () => this.#onClose());
  }

  /** Connects once QEMU listens; rejects ENOENT or ECONNREFUSED before. */
  static async connect(path: string): Promise<Qmp> {
    const socket = createConnection(path);
    await new Promise((resolve, reject) => {
      socket.once('connect', resolve);
      socket.once('error', reject);
    });
    const qmp = new Qmp(socket);
    await qmp.execute('qmp_capabilities');
    return qmp;
  }

  execute<T = unknown>(command: string, args: object = {}): Promise<T> {
    if (this.#closed) return Promise.reject(new Error(`QEMU has ended before ${command}`));
    return new Promise<T>((resolve, reject) => {
      this.#answers.push({ resolve: (value) => resolve(value as T), reject });
      this.#socket.write(`${JSON.stringify({ execute: command, arguments: args })}\n`);
    });
  }

  /** The next event that fits, among those not asked for yet; what came before it is dropped. */
  async next(fits: (event: QmpEvent) => boolean): Promise<QmpEvent> {
    const deadline = performance.now() + eventDeadlineMs;
    for (;;) {
      const index = this.#events.findIndex(fits);
      const found = this.#events[index];
      if (found) {
        this.#events = this.#events.slice(index + 1);
        return found;
      }
      const leftMs = deadline - performance.now();
      if (this.#closed || leftMs <= 0) {
        const seen = this.#events.map(({ event, data }) => `${event} ${data?.status ?? ''}`);
        throw new Error(
          `QEMU ${this.#closed ? 'ended' : 'gave no event in time'}; seen: ${seen.join(', ')}`,
        );
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

  close(): void {
    this.#socket.destroy();
  }

  #onMessage(message: Message): void {
    if (message.event !== undefined) {
      const { seconds = 0, microseconds = 0 } = message.timestamp ?? {};
      const data = message.data ? { data: message.data } : {};
      this.#events.push({ event: message.event, ...data, atUs: seconds * 1e6 + microseconds });
      this.#wake();
    } else if (message.error !== undefined) {
      this.#answers.shift()?.reject(new Error(`QEMU: ${message.error.desc}`));
    } else if ('return' in message) {
      this.#answers.shift()?.resolve(message.return);
    }
  }

  #onClose(): void {
    this.#closed = true;
    for (const { reject } of this.#answers.splice(0)) reject(new Error('QEMU has ended'));
    this.#wake();
  }
}
