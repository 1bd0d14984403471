/**
 * Processes that cannot outlive this one: the kernel kills them when it ends, however it ends. So a benchmark
 * that fails, or is killed, leaves neither a QEMU nor a VM behind.
 */
import { type ChildProcess, spawn, type StdioOptions } from 'node:child_process';

/** Starts a program; its pid is that of the program itself. */
export function spawnTied(
  program: string,
  args: readonly string[],
  stdio: StdioOptions,
  env: NodeJS.ProcessEnv = process.env,
): ChildProcess {
  return spawn('setpriv', ['--pdeathsig', 'KILL', '--', program, ...args], { stdio, env });
}

/** Resolves with the exit code once the process has ended and its pipes are closed; null after a signal. */
export function ended(child: ChildProcess): Promise<number | null> {
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  });
}
