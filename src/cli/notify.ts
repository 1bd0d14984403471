/** Readiness for systemd: a service of Type=notify has started when it says so. */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import type { Context } from './context.js';

const helper = 'systemd-notify';
const helperLimitMs = 10_000;

/** Says that this process is ready, where systemd waits for it. */
export async function notifyReady(context: Context, status: string): Promise<void> {
  if (process.env.NOTIFY_SOCKET === undefined) return;
  try {
    await promisify(execFile)(helper, ['--ready', `--status=${status}`], {
      timeout: helperLimitMs,
    });
  } catch (error) {
    context.output.note(
      `ckptfs: systemd is not told that this is ready: ${helper}: ${(error as Error).message}`,
    );
  }
}
