/** Retention of what is taken without anybody asking: the newest so many checkpoints whose names begin with a prefix. */
import { listCheckpoints } from '../checkpoint/checkpoints.js';
import { judge } from '../checkpoint/retention.js';
import type { Store } from '../checkpoint/store.js';
import { checkpointsBeingLoaded, removeUnlessLoaded } from './loading.js';

/** Removes the older ones but those in use; resolves with their names. BUSY at the first that a VM still loads. */
export async function keepNewest(
  store: Store,
  vm: string,
  prefix: string,
  keep: number,
  isUsed: (name: string) => boolean = () => false,
): Promise<string[]> {
  const entries = (await listCheckpoints(store, vm)).filter(({ name }) => name.startsWith(prefix));
  const old = judge(entries, { keepLast: keep }).filter(({ reasons }) => reasons.length === 0);
  if (old.length === 0) return [];
  const loaded = await checkpointsBeingLoaded(store);
  const removed: string[] = [];
  for (const { entry } of old) {
    if (isUsed(entry.name)) continue;
    await removeUnlessLoaded(store, entry, loaded);
    removed.push(entry.name);
  }
  return removed;
}
