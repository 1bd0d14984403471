/**
 * What work on the checkpoints of a VM has left that was cut short: directories whose names start with a prefix of
 * their own. They belong to whoever holds the lock of that work (compact_lock.ts, receive_lock.ts).
 */
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { lockFile } from '../native.js';
import { attempt, namesIn } from './files.js';
import type { Store } from './store.js';

/** Removes them, under the lock; resolves with how many there were. */
export async function removeLeftovers(store: Store, vm: string, prefix: string): Promise<number> {
  const directory = store.checkpointsDirectory(vm);
  const names = (await namesIn(directory)).filter((name) => name.startsWith(prefix));
  for (const name of names) {
    const path = join(directory, name);
    await attempt(`cannot remove ${path}`, () => rm(path, { recursive: true, force: true }));
  }
  return names.length;
}

/** The same, unless somebody has the lock at `lockPath`. */
export async function cleanLeftovers(
  store: Store,
  vm: string,
  prefix: string,
  lockPath: string,
): Promise<number> {
  const names = await namesIn(store.checkpointsDirectory(vm));
  if (!names.some((name) => name.startsWith(prefix))) return 0;
  const lock = lockFile(lockPath);
  if (lock === undefined) return 0;
  try {
    return await removeLeftovers(store, vm, prefix);
  } finally {
    lock.unlock();
  }
}
