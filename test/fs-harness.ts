/** Servers and commands for tests of mounts. What a test starts goes with it, on every path. */
import { type ChildProcess, execFile, fork } from 'node:child_process';
import { once } from 'node:events';
import { accessSync, existsSync } from 'node:fs';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import type { Test } from 'tap';
import { mountOn, unmountPath } from '../src/fs/mounts.js';
import type { ServerMessage, ServerOptions } from './fs-server.js';
import { type Counts, makeStore } from './fs-view.js';

const run = promisify(execFile);
const commandLimitMs = 20_000;

/** Why there can be no mount here, false when there can: tap's `skip`. */
export function noFuse(): string | false {
  try {
    accessSync('/dev/fuse');
    return false;
  } catch {
    return 'no /dev/fuse';
  }
}

/** Why a tool cannot be used, false when it can: tap's `skip`. */
export function noTool(name: string): string | false {
  const found = (process.env.PATH ?? '').split(delimiter).some((directory) => {
    return existsSync(join(directory, name));
  });
  return found ? false : `no ${name}`;
}

/** Runs a command to its end; rejects with its stderr unless it ends with 0. */
export async function command(file: string, ...args: string[]): Promise<string> {
  const { stdout } = await run(file, args, {
    timeout: commandLimitMs,
    env: { ...process.env, LC_ALL: 'C', TZ: 'UTC' },
  });
  return stdout;
}

/** The stderr of a command that has to fail. */
export async function failure(file: string, ...args: string[]): Promise<string> {
  try {
    await command(file, ...args);
  } catch (error) {
    return (error as { stderr: string }).stderr;
  }
  throw new Error(`${file} ${args.join(' ')} did not fail`);
}

export interface Served {
  store: string;
  directory: string;
  child: ChildProcess;
  /** Lines of the server's log. */
  errors: string[];
  counts: () => Promise<Counts>;
  /** Sends a request to the server; it has been carried out when this resolves. */
  ask: (request: string) => Promise<void>;
}

/** A temporary directory that goes with the test. */
export async function temporary(t: Test): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'ckptfs-fs-'));
  t.teardown(() => rm(directory, { recursive: true, force: true }));
  return directory;
}

/** Starts a server; resolves when it has mounted, rejects with what it refused. */
export async function serve(
  t: Test,
  options: Omit<ServerOptions, 'store' | 'directory'> & Partial<ServerOptions>,
): Promise<Served> {
  const base = await temporary(t);
  const store = options.store ?? join(base, 'store');
  const directory = options.directory ?? join(base, 'mnt');
  if (options.store === undefined) await makeStore(store);
  if (options.directory === undefined) await mkdir(directory);
  const child = fork(
    fileURLToPath(new URL('fs-server.js', import.meta.url)),
    [JSON.stringify({ ...options, store, directory })],
    // The coverage of the test's own process is not the server's.
    { execArgv: [], stdio: ['ignore', 'ignore', 'inherit', 'ipc'] },
  );
  const exited = once(child, 'exit');
  t.teardown(async () => {
    // Taken away first: a temporary directory is never removed through a mount.
    while ((await mountOn(directory)) !== undefined) await unmountPath(directory, true);
    if (child.exitCode === null && child.signalCode === null) {
      child.kill('SIGKILL');
      await exited;
    }
  });
  const errors: string[] = [];
  child.on('message', (message: ServerMessage) => {
    if (message.type === 'error') errors.push(message.line);
  });
  const next = async <T extends ServerMessage['type']>(type: T) => {
    for (;;) {
      const [message] = (await Promise.race([
        once(child, 'message'),
        exited.then(() => Promise.reject(new Error('the server ended'))),
      ])) as [ServerMessage];
      if (message.type === 'refused') throw new Error(`${message.code} ${message.message}`);
      if (message.type === type) return message as Extract<ServerMessage, { type: T }>;
    }
  };
  await next('mounted');
  const counts = () => {
    const answer = next('counts');
    child.send('counts');
    return answer;
  };
  const ask = async (request: string) => {
    child.send(request);
    await counts();
  };
  return { store, directory, child, errors, counts, ask };
}

/** Waits for what another process does soon; fails the test when it does not. */
export async function eventually(
  t: Test,
  what: string,
  holds: () => Promise<boolean>,
): Promise<void> {
  for (let i = 0; i < 500; i++) {
    if (await holds()) return;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  t.fail(`${what}: not within 10 s`);
}

/** A line of the log of the server's process, which comes some time after its answer. */
export function logged(t: Test, errors: readonly string[], line: RegExp): Promise<void> {
  return eventually(t, `logged: ${line.source}`, () =>
    Promise.resolve(errors.some((error) => line.test(error))),
  );
}
