/**
 * VMs in the background: `--detach` starts this command again in a session of its own and waits until that
 * process serves its VM, or has failed and said why.
 *
 * The child knows itself by an environment variable and reports over the IPC channel that spawn makes: one
 * message, then the channel is closed. Its stdout goes nowhere (console.log has the guest's output), and
 * what it writes to stderr later goes to the VM's process.log.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { openSync, writeSync } from 'node:fs';
import { CkptError, isErrorCode, toCkptError } from '../errors.js';
import type { Context } from './context.js';

const childVariable = 'CKPTFS_DETACHED';

type Message =
  | { type: 'ready'; vm: string; pid: number }
  | { type: 'error'; code: string; message: string; data: Record<string, unknown> };
type Ready = Extract<Message, { type: 'ready' }>;

/** Whether this process is the child of a `--detach`. */
export function isDetachedChild(): boolean {
  return process.env[childVariable] !== undefined && process.send !== undefined;
}

/** Starts this same command line in the background; resolves when its VM runs. */
export async function startDetached(context: Context): Promise<Ready> {
  const child = spawn(process.execPath, [...process.execArgv, ...process.argv.slice(1)], {
    detached: true,
    stdio: ['ignore', 'ignore', 'ignore', 'ipc'],
    env: { ...process.env, [childVariable]: '1' },
  });
  const interrupt = (): void => void child.kill('SIGTERM');
  context.signal.addEventListener('abort', interrupt);
  try {
    const message = await firstMessage(child);
    if (message.type === 'ready') return message;
    const code = isErrorCode(message.code) ? message.code : 'INTERNAL';
    throw new CkptError(code, message.message, message.data);
  } finally {
    context.signal.removeEventListener('abort', interrupt);
    if (child.connected) child.disconnect();
    child.unref();
  }
}

function firstMessage(child: ChildProcess): Promise<Message> {
  return new Promise((resolve, reject) => {
    child.once('message', (value) => {
      if (isMessage(value)) resolve(value);
      else reject(new Error('the VM process sent something else', { cause: value }));
    });
    child.once('error', reject);
    child.once('exit', (code, signal) => {
      if (signal === 'SIGTERM') reject(new CkptError('CANCELLED', 'the start was interrupted'));
      const how = signal === null ? `with code ${code}` : `by ${signal}`;
      reject(
        new CkptError(
          'IO',
          `the VM process ended ${how} before its VM ran; start it without --detach to see more`,
        ),
      );
    });
  });
}

/** By hand: a schema would have to be loaded, twice, before the VM's process has begun. */
function isMessage(value: unknown): value is Message {
  if (typeof value !== 'object' || value === null || !('type' in value)) return false;
  const known = value as Record<string, unknown>;
  return known.type === 'ready'
    ? typeof known.vm === 'string' && typeof known.pid === 'number'
    : known.type === 'error' &&
        typeof known.code === 'string' &&
        typeof known.message === 'string' &&
        typeof known.data === 'object' &&
        known.data !== null;
}

/** Runs the start of a VM in the child; its failure goes to the parent. */
export async function reportingFailure<T>(start: () => Promise<T>): Promise<T> {
  try {
    return await start();
  } catch (error) {
    const { code, message, data } = toCkptError(error);
    await report({ type: 'error', code, message, data });
    throw error;
  }
}

/** In the child: the VM runs. From now on stderr is the log. */
export async function reportReady(vm: string, logFile: string): Promise<void> {
  const log = openSync(logFile, 'a', 0o600);
  process.stderr.write = (chunk: string | Uint8Array): boolean => {
    writeSync(log, typeof chunk === 'string' ? Buffer.from(chunk) : chunk);
    return true;
  };
  await report({ type: 'ready', vm, pid: process.pid });
}

/** Sends one message; a parent that has gone away is no failure. */
async function report(message: Message): Promise<void> {
  if (!isDetachedChild()) return;
  await new Promise<void>((resolve) => process.send?.(message, undefined, {}, () => resolve()));
  if (process.connected) process.disconnect();
}
