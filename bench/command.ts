/** Programs that a benchmark runs to their end, some of them on another host. */
import type { ChildProcess } from 'node:child_process';
import { main } from '../test/support/cli.js';
import type { Hosts } from '../test/support/hosts.js';
import { ended, spawnTied } from './tied.js';

export interface Command {
  child: ChildProcess;
  /** What it printed; rejects with what it said unless it ends with 0. */
  output: Promise<string>;
}

export function start(program: string, args: readonly string[], env = process.env): Command {
  const child = spawnTied(program, args, ['ignore', 'pipe', 'pipe'], env);
  const read = async (): Promise<string> => {
    let [output, errors] = ['', ''];
    child.stdout?.on('data', (piece: Buffer) => (output += piece.toString()));
    child.stderr?.on('data', (piece: Buffer) => (errors += piece.toString()));
    const code = await ended(child);
    if (code !== 0) throw new Error(`${program} ended with ${code}: ${errors || output}`);
    return output;
  };
  return { child, output: read() };
}

export function run(program: string, args: readonly string[]): Promise<string> {
  return start(program, args).output;
}

/** Starts a command of ckptfs on the near host. */
export function startNear(hosts: Hosts, store: string, ...args: string[]): Command {
  const words = ['netns', 'exec', hosts.near, process.execPath, main, ...args, '--json'];
  return start('ip', [...words, '--store', store], hosts.environment);
}

/** The results that a command of ckptfs has told of. */
export async function resultsOf<T = Record<string, unknown>>({ output }: Command): Promise<T[]> {
  const lines = (await output).split('\n').filter((line) => line !== '');
  return lines
    .map((line) => JSON.parse(line) as T & { type?: unknown })
    .filter(({ type }) => type === 'result');
}

/** Runs a command of ckptfs on the near host; its results. */
export function near(
  hosts: Hosts,
  store: string,
  ...args: string[]
): Promise<Record<string, unknown>[]> {
  return resultsOf(startNear(hosts, store, ...args));
}
