/**
 * The end of whoever serves a mount, for umount to wait for: the kernel takes a mount away before its server has
 * written what it holds. The server listens on an abstract socket that has its mount's device number in its name, says
 * nothing, and closes all connections when it is done; the kernel does so when it dies.
 */
import { once } from 'node:events';
import { connect, createServer, type Server, type Socket } from 'node:net';
import createDebug from 'debug';

const debug = createDebug('ckptfs:fs');
/** Any user may connect. */
const maxWaiting = 64;

function addressOf(device: string): string {
  return `\0ckptfs-mount-${device}`;
}

/** Held by the server of a mount from its beginning to its end. */
export class ServerEnd {
  readonly #server: Server;
  readonly #waiting = new Set<Socket>();

  private constructor(server: Server) {
    this.#server = server;
  }

  /** Begins to listen. Where that cannot be, umount does not wait. */
  static async announce(device: string): Promise<ServerEnd> {
    const server = createServer();
    const end = new ServerEnd(server);
    server.maxConnections = maxWaiting;
    server.on('connection', (socket) => {
      end.#waiting.add(socket);
      socket.on('error', () => undefined).once('close', () => end.#waiting.delete(socket));
      // A server that is asked for nothing else may end.
      socket.unref().resume();
    });
    try {
      await once(server.listen(addressOf(device)), 'listening');
    } catch (error) {
      debug('nobody can wait for the end of mount %s: %o', device, error);
    }
    server.unref();
    return end;
  }

  /** Nothing is left to be written. */
  close(): void {
    this.#server.close();
    for (const socket of this.#waiting) socket.destroy();
  }
}

/** Someone who waits for the end of a server. */
export class ServerWatch implements Disposable {
  private constructor(
    readonly socket: Socket,
    readonly closed: Promise<unknown>,
  ) {}

  /** Asked before the mount goes; undefined when nobody serves it, or serves it unseen. */
  static async open(device: string): Promise<ServerWatch | undefined> {
    const socket = connect(addressOf(device));
    const closed = new Promise((resolve) => socket.once('close', resolve));
    try {
      await once(socket, 'connect');
    } catch {
      return undefined;
    }
    socket.on('error', () => undefined).resume();
    return new ServerWatch(socket, closed);
  }

  /** Resolves with whether the server has ended within `limitMs`. */
  async ended(limitMs: number): Promise<boolean> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<false>((resolve) => {
      timer = setTimeout(() => resolve(false), limitMs);
    });
    try {
      return await Promise.race([this.closed.then(() => true), late]);
    } finally {
      clearTimeout(timer);
    }
  }

  [Symbol.dispose](): void {
    this.socket.destroy();
  }
}
