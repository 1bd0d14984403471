/** How the addon is called: its failures as CkptErrors, its long work with hooks. Stateless. */
import { CkptError, isErrorCode } from '../errors.js';
import type { RawProgress, RawTask } from './raw.js';
import type { TaskHooks } from './values.js';

/** The addon's failure as a CkptError; anything else passes through. */
function wrapped(error: unknown): unknown {
  if (error instanceof Error && 'code' in error && isErrorCode(error.code)) {
    return new CkptError(error.code, error.message, {}, { cause: error });
  }
  return error;
}

/** Calls the addon; its failures come as CkptErrors. */
export function call<T>(body: () => T): T {
  try {
    return body();
  } catch (error) {
    throw wrapped(error);
  }
}

/** The same for what resolves later. */
export async function callAsync<T>(body: () => Promise<T>): Promise<T> {
  try {
    return await body();
  } catch (error) {
    throw wrapped(error);
  }
}

/** Runs work of the addon to its end, which its hooks may bring about early. */
export async function runTask<T>(
  hooks: TaskHooks,
  start: (onProgress: RawProgress) => RawTask,
): Promise<T> {
  if (hooks.signal?.aborted) throw new CkptError('CANCELLED', 'cancelled');
  let running = true;
  const task = call(() =>
    start((done, total) => {
      if (running) hooks.onProgress?.(done, total);
    }),
  );
  const cancel = (): void => task.cancel();
  hooks.signal?.addEventListener('abort', cancel);
  try {
    return JSON.parse(await callAsync(() => task.result)) as T;
  } finally {
    running = false;
    hooks.signal?.removeEventListener('abort', cancel);
  }
}
