/**
 * `ckptfs receive` at the far end of the ssh client that the user has, with the user's keys, configuration and known
 * hosts. A guard: the client ends with it.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { CkptError, toCkptError } from '../errors.js';
import { Connection } from './connection.js';
import type { Destination } from './destination.js';
import type { MessageOf } from './messages.js';

/** How the far end is reached; by default from the environment. */
export interface SshOptions {
  /** The ssh command with options of its own, in words: $CKPTFS_SSH, else ssh. */
  ssh?: string | undefined;
  /** ckptfs at the far end, as its shell finds it: $CKPTFS_REMOTE, else ckptfs. */
  remoteProgram?: string | undefined;
}

export type SshDestination = Extract<Destination, { kind: 'ssh' }>;

/** Nobody is there to be asked; a link that is gone is noticed within half a minute. */
const sshOptions = ['BatchMode=yes', 'ServerAliveInterval=10', 'ServerAliveCountMax=3'];
const maxStderrBytes = 4096;
const endMs = 5000;
/** What a shell says of a command that it does not find. */
const notFoundCode = 127;
const sshFailedCode = 255;

export class SshLink implements AsyncDisposable {
  #stderr = '';
  readonly #ended: Promise<number | null>;

  private constructor(
    private readonly child: ChildProcess,
    readonly connection: Connection,
    private readonly where: string,
  ) {
    child.stderr?.setEncoding('utf8').on('data', (piece: string) => {
      this.#stderr = (this.#stderr + piece).slice(-maxStderrBytes);
    });
    this.#ended = Promise.race([
      once(child, 'close').then(([code]) => code as number | null),
      new Promise<null>((resolve) => {
        child.once('error', (error) => {
          this.#stderr += error.message;
          resolve(null);
        });
      }),
    ]);
    this.#ended.catch(() => undefined); // once() rejects where the client could not be started
  }

  /** Connects and says hello. IO (no connection, with what ssh said), UNSUPPORTED (no ckptfs there, or another version). */
  static async open(
    destination: SshDestination,
    { create = false, ...options }: SshOptions & { create?: boolean } = {},
    signal?: AbortSignal,
  ): Promise<{ link: SshLink; hello: MessageOf<'hello'> }> {
    const { host, path } = destination;
    const [ssh, args] = farCommand(
      destination,
      ['receive', ...(create ? [] : ['--existing']), path],
      options,
    );
    const child = spawn(ssh, args, { stdio: ['pipe', 'pipe', 'pipe'] });
    const connection = new Connection(child.stdout, child.stdin);
    const link = new SshLink(child, connection, `ssh://${host}${path}`);
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
    this.child.stdin?.destroy();
    this.child.kill();
    await this.#ended;
  }
}

/** What is to be started here for ckptfs with these words to run at the far end. */
export function farCommand(
  { host, user, port }: SshDestination,
  args: readonly string[],
  options: SshOptions = {},
): [program: string, args: string[]] {
  const [ssh = 'ssh', ...own] = words(options.ssh ?? process.env.CKPTFS_SSH ?? 'ssh');
  const remote = options.remoteProgram ?? process.env.CKPTFS_REMOTE ?? 'ckptfs';
  return [
    ssh,
    [
      ...own,
      ...sshOptions.flatMap((option) => ['-o', option]),
      ...(port === undefined ? [] : ['-p', String(port)]),
      ...['-T', '--', user === undefined ? host : `${user}@${host}`],
      [remote, ...args.map(quoted)].join(' '),
    ],
  ];
}

function words(text: string): string[] {
  return text.split(/\s+/).filter((word) => word !== '');
}

/** A word for the shell at the far end; the names of commands and options are theirs as they are. */
function quoted(text: string): string {
  if (/^[a-z-]+$/.test(text)) return text;
  return `'${text.replaceAll("'", "'\\''")}'`;
}
