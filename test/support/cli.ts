/** The command line on real guests: commands as processes of their own, on a store of the test. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Test } from 'tap';
import type { Store } from '../../src/checkpoint/store.js';
import { mountOn, unmountPath } from '../../src/fs/mounts.js';
import { bareGuest, temporaryStore } from './guests.js';

/** The command's main file. */
export const main = fileURLToPath(new URL('../../src/cli/main.js', import.meta.url));

export interface Finished {
  status: number | null;
  stdout: string;
  stderr: string;
  objects: Record<string, unknown>[];
}

/** A running command: its process, and what it gave when it has ended. */
export function start(
  store: Store,
  args: string[],
): { child: ChildProcess; finished: Promise<Finished> } {
  const child = spawn(process.execPath, [main, ...args, '--store', store.root], {
    stdio: ['pipe', 'pipe', 'pipe'],
    env: { ...process.env, DEBUG: undefined },
  });
  const text = { stdout: '', stderr: '' };
  child.stdout.setEncoding('utf8').on('data', (piece: string) => (text.stdout += piece));
  child.stderr.setEncoding('utf8').on('data', (piece: string) => (text.stderr += piece));
  const finished = once(child, 'close').then(([status]) => ({
    status: status as number | null,
    ...text,
    get objects() {
      const lines = text.stdout.split('\n').filter((line) => line !== '');
      return lines.map((line) => JSON.parse(line) as Record<string, unknown>);
    },
  }));
  return { child, finished };
}

/** A store, and commands on it; whatever still runs at the end is stopped. */
export async function withStore(t: Test) {
  const { store, remove } = await temporaryStore();
  const ckptfs = (...args: string[]) => start(store, args).finished;
  t.teardown(async () => {
    for (const vm of await store.listVms()) await ckptfs('stop', vm);
    await remove();
  });
  return { store, ckptfs };
}

/** Mounts the store by `ckptfs mount` on a directory beside it; taken away with the test. */
export async function mountStore(
  t: Test,
  { store, ckptfs }: Awaited<ReturnType<typeof withStore>>,
  ...options: string[]
): Promise<string> {
  const directory = await mkdtemp(join(store.root, '..', 'mnt-'));
  t.teardown(async () => {
    while ((await mountOn(directory)) !== undefined) await unmountPath(directory, true);
  });
  const { status, stderr } = await ckptfs('mount', directory, ...options);
  if (status !== 0) throw new Error(stderr);
  return directory;
}

/** Words that run a bare-metal guest with little memory. */
export const run = (guest: string, append: string) => [
  ...['run', '--kernel', bareGuest(guest), '--memory', '16M', '--append', append],
];
/** A guest that writes for ever. */
export const endless = run('random-writer', 'mib=2');
