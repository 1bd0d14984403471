/**
 * Verification of many checkpoints: some at a time, and each segment that several of them share once, if it is
 * whole, as far as they do not come to it at the same moment.
 */
import { verifiedSegments, type Damage, type VerifiedSegments } from '../native.js';
import { type CheckpointEntry, checkpointBytes } from './checkpoints.js';
import { pathExists } from './files.js';
import { verifyCheckpoint, type VerifyOptions } from './verify.js';

/** Each reads with two threads of its own. */
const defaultParallel = 2;

export interface VerifyAllOptions extends VerifyOptions {
  parallel?: number;
}

/**
 * Verifies checkpoints and tells of each in the order of the list, as soon as it and those before it are done.
 * One that is removed meanwhile is passed over. Rejects with CANCELLED, and when the check itself fails.
 */
export async function verifyCheckpoints(
  entries: readonly CheckpointEntry[],
  onVerified: (entry: CheckpointEntry, damage: Damage[]) => void,
  options: VerifyAllOptions = {},
): Promise<void> {
  const { onProgress, signal, parallel = defaultParallel, native } = options;
  const verified: VerifiedSegments | undefined = native ? undefined : verifiedSegments();
  const failed = new AbortController();
  const sizes = entries.map(({ manifest }) => (manifest ? checkpointBytes(manifest) : 0));
  const totalBytes = sizes.reduce((sum, bytes) => sum + bytes, 0);
  const done = entries.map(() => 0);
  /** Results by index; null: removed meanwhile. */
  const results: (Damage[] | null)[] = [];
  let next = 0;
  let told = 0;

  const verifyOne = async (index: number, entry: CheckpointEntry): Promise<void> => {
    const damage = await verifyCheckpoint(entry.directory, {
      ...(native ? { native } : { verified }),
      signal: AbortSignal.any([failed.signal, ...(signal ? [signal] : [])]),
      onProgress(doneBytes) {
        done[index] = doneBytes;
        onProgress?.(
          done.reduce((sum, bytes) => sum + bytes, 0),
          totalBytes,
        );
      },
    });
    const isGone = damage.length > 0 && !(await pathExists(entry.directory));
    results[index] = isGone ? null : damage;
    for (; results[told] !== undefined; told++) {
      const [result, tellOf] = [results[told], entries[told]];
      if (result && tellOf) onVerified(tellOf, result);
    }
  };
  const work = async (): Promise<void> => {
    while (next < entries.length) {
      const index = next++;
      const entry = entries[index];
      if (entry) await verifyOne(index, entry);
    }
  };
  // All have ended when this does: one that fails stops the others.
  const workers = await Promise.allSettled(
    Array.from({ length: parallel }, () =>
      work().catch((error: unknown) => {
        failed.abort();
        throw error;
      }),
    ),
  );
  for (const worker of workers) if (worker.status === 'rejected') throw worker.reason;
}
