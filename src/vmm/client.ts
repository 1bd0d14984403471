/**
 * A client of a running VM's control socket: the same verbs as the VM itself (see control.ts).
 */
import { request as httpRequest, type IncomingMessage } from 'node:http';
import { createInterface } from 'node:readline';
import type { Duplex } from 'node:stream';
import { setTimeout } from 'node:timers/promises';
import type { Store } from '../checkpoint/store.js';
import { CkptError, isErrorCode } from '../errors.js';
import type { SaveProgress, TaskHooks } from '../native.js';
import type {
  CheckpointRequest,
  CheckpointSummary,
  CommitOptions,
  CommitSummary,
  CompactDiskOptions,
  CompactDiskSummary,
  ConsoleStream,
  GroupStep,
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
  readonly vm: string;
  readonly #socketPath: string;

  private constructor(vm: string, socketPath: string) {
    this.vm = vm;
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

  /** What Prometheus is told, as text. */
  async metrics(): Promise<string> {
    const response = await this.#send('GET', '/metrics');
    if (response.statusCode !== 200) throw remoteError(await readJson(response));
    return readText(response);
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

  checkpoint(
    request: CheckpointRequest,
    onProgress: (progress: SaveProgress) => void = () => {},
    signal?: AbortSignal,
    onStep: (step: GroupStep) => void = () => {},
  ): Promise<CheckpointSummary> {
    const told = (value: SaveProgress | { step: GroupStep }): void => {
      if ('step' in value) onStep(value.step);
      else onProgress(value);
    };
    return this.#lines('checkpoint', '/checkpoint', request, told, signal);
  }

  async proceed(group: string, step: GroupStep): Promise<void> {
    await this.#call('POST', '/checkpoint/proceed', { group, step });
  }

  commitDisk(
    disk: string,
    options: CommitOptions = {},
    hooks: TaskHooks = {},
  ): Promise<CommitSummary> {
    return this.#disk('commit', disk, options, hooks);
  }

  compactDisk(
    disk: string,
    options: CompactDiskOptions = {},
    hooks: TaskHooks = {},
  ): Promise<CompactDiskSummary> {
    return this.#disk('compact', disk, options, hooks);
  }

  #disk<Result>(
    verb: string,
    disk: string,
    options: object,
    { onProgress, signal }: TaskHooks,
  ): Promise<Result> {
    const tell = ({ doneBytes, totalBytes }: { doneBytes: number; totalBytes: number }): void =>
      onProgress?.(doneBytes, totalBytes);
    const path = `/disks/${encodeURIComponent(disk)}/${verb}`;
    return this.#lines(verb, path, options, tell, signal);
  }

  /** Asks for `what`, which is told in lines until its result. */
  async #lines<Result>(
    what: string,
    path: string,
    body: object,
    onProgress: (progress: never) => void,
    signal: AbortSignal | undefined,
  ): Promise<Result> {
    const response = await this.#send('POST', path, JSON.stringify(body), signal);
    if (response.statusCode !== 200) throw remoteError(await readJson(response));
    let cause: unknown;
    try {
      for await (const line of createInterface({ input: response })) {
        const { type, ...value } = JSON.parse(line) as { type: string };
        if (type === 'result') return value as Result;
        if (type === 'error') throw remoteError(value);
        onProgress(value as never);
      }
    } catch (error) {
      if (error instanceof CkptError) throw error;
      cause = error; // the connection is torn
    }
    if (signal?.aborted) throw new CkptError('CANCELLED', `the ${what} was cancelled`);
    throw new CkptError(
      'IO',
      `VM ${this.vm} ended before its ${what} was complete`,
      { vm: this.vm },
      { cause },
    );
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
      `VM ${this.vm} is not running; start it with ckptfs run, or restore a checkpoint of it`,
      { vm: this.vm },
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
              signal?.aborted ? new CkptError('CANCELLED', 'cancelled') : this.#unreachable(error),
            );
          });
          request.end(body);
        }),
    );
  }

  async #call(method: string, path: string, body?: object): Promise<unknown> {
    const response = await this.#send(method, path, body && JSON.stringify(body));
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

async function readText(response: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of response as AsyncIterable<Buffer>) chunks.push(chunk);
  return Buffer.concat(chunks).toString('utf8');
}

async function readJson(response: IncomingMessage): Promise<unknown> {
  return JSON.parse(await readText(response)) as unknown;
}
