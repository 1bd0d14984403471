/**
 * The control server of a VM process: HTTP and JSON over a Unix socket of mode 0600.
 *
 *   GET  /status                    VmStatus
 *   GET  /metrics                   the same and more as text for Prometheus (metrics.ts)
 *   POST /pause  /resume  /stop     {}
 *   POST /retry                     {}
 *   POST /checkpoint                CheckpointRequest → lines of {type: progress|step|result|error}
 *   POST /checkpoint/proceed        {group, step} → {}: a checkpoint of that group that waits at the step goes on
 *   POST /disks/<id>/commit         CommitOptions → lines as above
 *   POST /disks/<id>/compact        CompactDiskOptions → lines as above
 *   GET  /console                   Upgrade: ckptfs-console → raw bytes both ways
 *
 * Errors are {code, message, data} with status 400. A client that goes away cancels what it asked for in lines.
 */
import { chmod, rm } from 'node:fs/promises';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { Duplex } from 'node:stream';
import { completeRequest } from '../checkpoint/request.js';
import type { SaveHooks } from '../checkpoint/save.js';
import { CkptError } from '../errors.js';
import type { TaskHooks } from '../native.js';
import type {
  CheckpointRequest,
  CheckpointSummary,
  CommitOptions,
  CommitSummary,
  CompactDiskOptions,
  CompactDiskSummary,
  GroupStep,
  VmStatus,
} from '../types.js';
import { expositionType } from './exposition.js';
import { withSocketPath } from './socket_path.js';

/** What the server needs of its VM. */
export interface Controlled {
  status(): VmStatus;
  metrics(): Promise<string>;
  pause(): Promise<void>;
  resume(): void;
  retry(): Promise<void>;
  /** Ends the VM after the answer has been sent. */
  stop(): Promise<void>;
  checkpoint(request: CheckpointRequest, hooks: SaveHooks): Promise<CheckpointSummary>;
  /** Lets a checkpoint of a group go on that waits at `step`. */
  proceed(group: string, step: GroupStep): void;
  commitDisk(disk: string, options: CommitOptions, hooks: TaskHooks): Promise<CommitSummary>;
  compactDisk(
    disk: string,
    options: CompactDiskOptions,
    hooks: TaskHooks,
  ): Promise<CompactDiskSummary>;
  consoleInput(data: Uint8Array): void;
  /** Adds a listener for console output; returns its removal. */
  onConsole(listener: (data: Buffer) => void): () => void;
}

const maxBodyBytes = 64 << 10;
/** A console client that does not read is dropped rather than buffered without end. */
const maxConsoleBacklogBytes = 4 << 20;

async function readBody(request: IncomingMessage): Promise<unknown> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (bytes > maxBodyBytes) throw new CkptError('USAGE', 'the request is too large');
    chunks.push(chunk);
  }
  if (bytes === 0) return {};
  try {
    return JSON.parse(Buffer.concat(chunks).toString('utf8'));
  } catch {
    throw new CkptError('USAGE', 'the request is not JSON');
  }
}

function errorValue(error: unknown) {
  if (error instanceof CkptError) {
    return { type: 'error', code: error.code, message: error.message, data: error.data };
  }
  return { type: 'error', code: 'IO', message: String(error), data: {} };
}

function reply(response: ServerResponse, status: number, value: unknown): void {
  response.writeHead(status, { 'content-type': 'application/json' });
  response.end(JSON.stringify(value));
}

/** Answers with lines: what `work` tells (progress, unless it has a type of its own), then the result or the error. */
async function serveLines(
  response: ServerResponse,
  work: (tell: (value: object) => void, signal: AbortSignal) => Promise<object>,
): Promise<void> {
  const gone = new AbortController();
  response.on('close', () => {
    if (!response.writableEnded) gone.abort();
  });
  const line = (value: object): void => {
    // Without wait the progress goes on after the answer.
    if (!response.writableEnded) response.write(`${JSON.stringify(value)}\n`);
  };
  response.writeHead(200, { 'content-type': 'application/jsonl' });
  try {
    const tell = (value: object): void => line({ type: 'progress', ...value });
    line({ type: 'result', ...(await work(tell, gone.signal)) });
  } catch (error) {
    line(errorValue(error));
  }
  response.end();
}

async function serveCheckpoint(
  vm: Controlled,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const complete = completeRequest((await readBody(request)) as CheckpointRequest);
  return serveLines(response, (tell, signal) =>
    vm.checkpoint(complete, {
      signal,
      onProgress: tell,
      onStep: (step) => tell({ type: 'step', step }),
    }),
  );
}

async function serveProceed(
  vm: Controlled,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const { group, step } = (await readBody(request)) as { group?: unknown; step?: unknown };
  // What is no step is none that a checkpoint waits at.
  vm.proceed(String(group), String(step) as GroupStep);
  reply(response, 200, {});
}

/** What can be asked of a disk. */
const diskVerbs = {
  commit: (vm: Controlled, disk: string, { copy }: CommitOptions, hooks: TaskHooks) =>
    vm.commitDisk(disk, { copy: copy === true }, hooks),
  compact: (
    vm: Controlled,
    disk: string,
    { all, threshold }: CompactDiskOptions,
    hooks: TaskHooks,
  ) =>
    vm.compactDisk(
      disk,
      { all: all === true, ...(threshold === undefined ? {} : { threshold }) },
      hooks,
    ),
};

async function serveDisk(
  vm: Controlled,
  disk: string,
  verb: keyof typeof diskVerbs,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const options = (await readBody(request)) as object;
  return serveLines(response, (tell, signal) =>
    diskVerbs[verb](vm, disk, options, {
      signal,
      onProgress: (doneBytes, totalBytes) => tell({ doneBytes, totalBytes }),
    }),
  );
}

function attachConsole(vm: Controlled, socket: Duplex): void {
  socket.write(
    'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: ckptfs-console\r\n\r\n',
  );
  const detach = vm.onConsole((data) => {
    if (socket.writableLength > maxConsoleBacklogBytes) socket.destroy();
    else socket.write(data);
  });
  socket.on('data', (data: Buffer) => vm.consoleInput(data));
  socket.on('end', () => socket.end());
  socket.on('error', () => socket.destroy());
  socket.on('close', detach);
}

async function route(
  vm: Controlled,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const [, disk, verb] =
    /^POST \/disks\/([^/]+)\/(commit|compact)$/.exec(`${request.method} ${request.url}`) ?? [];
  if (disk !== undefined) {
    return serveDisk(vm, disk, verb as keyof typeof diskVerbs, request, response);
  }
  switch (`${request.method} ${request.url}`) {
    case 'GET /status':
      return reply(response, 200, vm.status());
    case 'GET /metrics': {
      const text = await vm.metrics();
      response.writeHead(200, { 'content-type': expositionType });
      return void response.end(text);
    }
    case 'POST /pause':
      await vm.pause();
      return reply(response, 200, {});
    case 'POST /resume':
      vm.resume();
      return reply(response, 200, {});
    case 'POST /retry':
      await vm.retry();
      return reply(response, 200, {});
    case 'POST /stop':
      reply(response, 200, {});
      return vm.stop();
    case 'POST /checkpoint':
      return serveCheckpoint(vm, request, response);
    case 'POST /checkpoint/proceed':
      return serveProceed(vm, request, response);
    default:
      throw new CkptError(
        'USAGE',
        `the control socket does not know ${request.method} ${request.url}`,
      );
  }
}

/** The server; close() ends attached consoles too, after what has been written to them. */
export interface ControlServer {
  close(): void;
}

/** Serves `vm` at `socketPath`, replacing a socket that a killed process left. */
export async function serveControl(vm: Controlled, socketPath: string): Promise<ControlServer> {
  await rm(socketPath, { force: true });
  const consoles = new Set<Duplex>();
  const server = createServer((request, response) => {
    route(vm, request, response).catch((error: unknown) => {
      if (response.headersSent) response.destroy();
      else reply(response, 400, errorValue(error));
    });
  });
  server.on('upgrade', (request: IncomingMessage, socket: Duplex) => {
    if (request.url !== '/console') return void socket.destroy();
    consoles.add(socket);
    socket.on('close', () => consoles.delete(socket));
    attachConsole(vm, socket);
  });
  const umask = process.umask(0o177);
  try {
    await withSocketPath(
      socketPath,
      (address) =>
        new Promise<void>((resolve, reject) => {
          server.once('error', reject);
          server.listen(address, resolve);
        }),
    );
  } finally {
    process.umask(umask);
  }
  await chmod(socketPath, 0o600);
  return {
    close: () => {
      server.close();
      server.closeIdleConnections();
      for (const socket of consoles) socket.end();
    },
  };
}
