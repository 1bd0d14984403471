/**
 * `ckptfs receive` at the far end of the ssh client that the user has, with the user's keys, configuration and known
 * hosts. A guard: the client ends with it.
 */
import { CkptError, toCkptError } from '../errors.js';
import { Connection } from './connection.js';
import { dial, type Dialled, type SshDestination, type SshOptions } from './dial.js';
import type { MessageOf } from './messages.js';

const maxStderrBytes = 4096;
const endMs = 5000;
/** What a shell says of a command that it does not find. */
const notFoundCode = 127;
const sshFailedCode = 255;

export class SshLink implements AsyncDisposable {
  private readonly child: Dialled['child'];
  #stderr = '';
  readonly #ended: Promise<number | null>;

  private constructor(
    { child, ended }: Dialled,
    readonly connection: Connection,
    private readonly where: string,
  ) {
    this.child = child;
    child.stderr.setEncoding('utf8').on('data', (piece: string) => {
      this.#stderr = (this.#stderr + piece).slice(-maxStderrBytes);
    });
    this.#ended = ended.then(({ code, error }) => {
      this.#stderr += error ?? '';
      return code;
    });
  }

  /** Connects, or takes the client that dial() has started, and says hello. IO (no connection, with what ssh said), UNSUPPORTED (no ckptfs there, or another version). */
  static async open(
    destination: SshDestination,
    options: SshOptions = {},
    signal?: AbortSignal,
    dialled = dial(destination, options),
  ): Promise<{ link: SshLink; hello: MessageOf<'hello'> }> {
    const { host, path } = destination;
    const { child } = dialled;
    const connection = new Connection(child.stdout, child.stdin);
    const link = new SshLink(dialled, connection, `ssh://${host}${path}`);
    const abort = (): void => void child.kill();
    signal?.addEventListener('abort', abort);
    try {
      const hello = await connection.greet();
      connection.keepAlive();
      return { link, hello };
    } catch (error) {
      throw signal?.aborted
        ? new CkptError('CANCELLED', 'the connection was cancelled')
        : await link.#explained(error);
    } finally {
      signal?.removeEventListener('abort', abort);
    }
  }

  /** A failure of the connection, with what ssh says of it. */
  explain(failure: unknown): Promise<unknown> {
    const { code, data } = toCkptError(failure);
    const isOurs = code !== 'IO' || data.remote === true;
    return isOurs ? Promise.resolve(failure) : this.#explained(failure);
  }

  async #explained(failure: unknown): Promise<unknown> {
    const error = toCkptError(failure);
    if (error.code !== 'IO') {
      await this[Symbol.asyncDispose]();
      return failure;
    }
    const code = await this.#end();
    const said = this.#stderr
      .trim()
      .replace(/\s*\n\s*/g, ', ')
      .replace(/\.$/, '');
    if (code === notFoundCode) {
      return new CkptError(
        'UNSUPPORTED',
        `no ckptfs at ${this.where} (${said}); install it there, or name it with --remote-program`,
      );
    }
    if (code === sshFailedCode || said !== '') {
      const remedy = 'run the same command again, it goes on where this one stopped';
      const message = `${this.where}: ${said || error.message}; ${remedy}`;
      return new CkptError('IO', message, error.data, { cause: failure });
    }
    return failure;
  }

  /** Waits for the end of the client, which a link that is gone may keep from coming. */
  async #end(): Promise<number | null> {
    this.connection.close();
    const timer = setTimeout(() => this.child.kill(), endMs);
    try {
      return await this.#ended;
    } finally {
      clearTimeout(timer);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.connection.close();
    this.child.stdin.destroy();
    this.child.kill();
    await this.#ended;
  }
}
