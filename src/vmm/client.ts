/**
 * A client of a running VM's control socket: the same verbs as the VM itself (see control.ts).
 */
import { request as httpRequest, type IncomingMessage } from 'node:http';
import { createInterface } from 'node:readline';
import type { Duplex } from 'node:stream';
import { setTimeout } from 'node:timers/promises';
import type { Store } from '../checkpoint/store.js';
import { CkptError, isErrorCode } from '../errors.js';
import type { SaveProgress } from '../native.js';
import type {
  CheckpointRequest,
  CheckpointSummary,
  ConsoleStream,
  VmControl,
  VmStatus,
} from '../types.js';
import { withSocketPath } from './socket_path.js';

/** A VM process that does not answer for so long is hung or stopped. */
const answerMs = 5000;

/** Rebuilds the error that the VM process answered with. */
function remoteError(value: unknown): CkptError {
  const error = value as { code?: unknown; message?: unknown; data?: Record<string, unknown> };
  return new CkptError(
    isErrorCode(error.code) ? error.code : 'IO',
    typeof error.message === 'string' ? error.message : 'the VM process gave no reason',
    error.data ?? {},
  );
}

export class VmClient implements VmControl {
  readonly #vm: string;
  readonly #socketPath: string;

  private constructor(vm: string, socketPath: string) {
    this.#vm = vm;
    this.#socketPath = socketPath;
  }

  /** Connects to the VM whose control socket is at `socketPath`. NOT_FOUND when nobody answers there. */
  static async connect(vm: string, socketPath: string): Promise<VmClient> {
    const client = new VmClient(vm, socketPath);
    await client.status();
    return client;
  }

  async status(): Promise<VmStatus> {
    return (await this.#call('GET', '/status')) as VmStatus;
  }

  async pause(): Promise<void> {
    await this.#call('POST', '/pause');
  }

  async resume(): Promise<void> {
    await this.#call('POST', '/resume');
  }

  async stop(): Promise<void> {
    await this.#call('POST', '/stop');
  }

  async retry(): Promise<void> {
    await this.#call('POST', '/retry');
  }

  async checkpoint(
    request: CheckpointRequest,
    onProgress: (progress: SaveProgress) => void = () => {},
    signal?: AbortSignal,
  ): Promise<CheckpointSummary> {
    const response = await this.#send('POST', '/checkpoint', JSON.stringify(request), signal);
    if (response.statusCode !== 200) throw remoteError(await readJson(response));
    for await (const line of createInterface({ input: response })) {
      const { type, ...value } = JSON.parse(line) as { type: string };
      if (type === 'result') return value as CheckpointSummary;
      if (type === 'error') throw remoteError(value);
      onProgress(value as SaveProgress);
    }
    if (signal?.aborted) throw new CkptError('CANCELLED', 'the checkpoint was cancelled');
    throw new CkptError('IO', `VM ${this.#vm} ended before its checkpoint was complete`, {
      vm: this.#vm,
    });
  }

  async console(): Promise<ConsoleStream> {
    const socket = await withSocketPath(
      this.#socketPath,
      (socketPath) =>
        new Promise<Duplex>((resolve, reject) => {
          const request = httpRequest({
            socketPath,
            path: '/console',
            headers: { connection: 'Upgrade', upgrade: 'ckptfs-console' },
          });
          request.on('upgrade', (_response, upgraded, head) => {
            if (head.length > 0) upgraded.unshift(head);
            resolve(upgraded);
          });
          request.on('error', (error) => reject(this.#unreachable(error)));
          request.end();
        }),
    );
    return {
      readable: socket as AsyncIterable<Uint8Array>,
      write: (bytes) => void socket.write(bytes),
      end: () => socket.end(),
    };
  }

  #unreachable(error: Error): CkptError {
    return new CkptError(
      'NOT_FOUND',
      `VM ${this.#vm} is not running; start it with ckptfs run, or restore a checkpoint of it`,
      { vm: this.#vm },
      { cause: error },
    );
  }

  #send(
    method: string,
    path: string,
    body?: string,
    signal?: AbortSignal,
  ): Promise<IncomingMessage> {
    return withSocketPath(
      this.#socketPath,
      (socketPath) =>
        new Promise((resolve, reject) => {
          const request = httpRequest(
            { socketPath, method, path, ...(signal ? { signal } : {}) },
            resolve,
          );
          request.on('error', (error) => {
            reject(
              signal?.aborted
                ? new CkptError('CANCELLED', 'the checkpoint was cancelled')
                : this.#unreachable(error),
            );
          });
          request.end(body);
        }),
    );
  }

  async #call(method: string, path: string): Promise<unknown> {
    const response = await this.#send(method, path);
    const value = await readJson(response);
    if (response.statusCode !== 200) throw remoteError(value);
    return value;
  }
}

/** The status of a VM's process: undefined when no process has the VM, `silent` when it does not answer. */
export async function askStatus(
  store: Store,
  vm: string,
): Promise<VmStatus | 'silent' | undefined> {
  const answered = new AbortController();
  const silent = setTimeout(answerMs, 'silent' as const, { signal: answered.signal });
  silent.catch(() => undefined);
  try {
    const asked = VmClient.connect(vm, store.controlSocket(vm)).then((client) => client.status());
    return await Promise.race([asked, silent]);
  } catch (error) {
    if (error instanceof CkptError && error.code === 'NOT_FOUND') return undefined;
    throw error;
  } finally {
    answered.abort();
  }
}

async function readJson(response: IncomingMessage): Promise<unknown> {
  const chunks: Buffer[] = [];
  for await (const chunk of response as AsyncIterable<Buffer>) chunks.push(chunk);
  return JSON.parse(Buffer.concat(chunks).toString('utf8')) as unknown;
}
