/** `--detach`, for every command that starts a VM. What a process in the background takes is loaded only for one. */
import type { Context } from './context.js';

/**
 * Runs `start` here; with `detach` in a process of its own, which `told` hears of once its VM runs. Resolves with the
 * exit code of the process that has the VM.
 */
export async function inBackground(
  context: Context,
  detach: boolean | undefined,
  start: () => Promise<number>,
  told: (vm: string, pid: number) => Promise<void> | void,
): Promise<number | undefined> {
  if (detach !== true) return start();
  const { isDetachedChild, reportingFailure, startDetached } = await import('./detach.js');
  if (isDetachedChild()) return reportingFailure(start);
  const { vm, pid } = await startDetached(context);
  await told(vm, pid);
  return undefined;
}
