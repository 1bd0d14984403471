/**
 * What the protection of a VM (src/protect) has achieved, as a file of the VM: written as a whole by the process that
 * protects it, read by whoever wants to know, whether that process and the VM run or not. Only numbers and the last
 * failures are here: which checkpoints there are, the two stores themselves say.
 */
import { z } from 'zod';
import { pathExists, readSmallFile, replaceFile } from '../checkpoint/files.js';
import { isName } from '../checkpoint/names.js';
import type { Store } from '../checkpoint/store.js';
import { CkptError } from '../errors.js';

const maxBytes = 64 << 10;
const count = z.int().nonnegative();
const time = z.iso.datetime();

/** What may fail by itself; far-retention is the removal of old checkpoints at the destination. */
export const protectionSteps = [
  'checkpoint',
  'retention',
  'transfer',
  'far-retention',
  'commit',
] as const;
export type ProtectionStep = (typeof protectionSteps)[number];

const schema = z.strictObject({
  /** As it was given. */
  to: z.string(),
  everyMs: z.number().positive(),
  afterWrittenBytes: count.optional(),
  keep: count.optional(),
  /** Redo logs are committed once they hold so much; never when absent. */
  commitBytes: count.optional(),
  pid: count,
  /** When it began; what follows counts from then on, over crashes of the process. */
  since: time,
  /** When it was ended by a person; absent while it goes on, and after a crash. */
  endedAt: time.optional(),
  taken: count,
  shipped: count,
  shippedBytes: count,
  missed: count,
  committed: count,
  /** What does not work now, by what that is; told again only when the message changes. */
  failures: z.partialRecord(
    z.enum(protectionSteps),
    z.strictObject({ at: time, message: z.string() }),
  ),
  lastMissed: z.strictObject({ at: time, why: z.string() }).optional(),
  /** The newest checkpoint that the destination is known to hold. */
  newest: z.strictObject({ name: z.string().refine(isName), createdAt: time }).optional(),
  /** The oldest that the newest one there has ever been. */
  worstRpoMs: count,
});

export type ProtectionRecord = z.infer<typeof schema>;

/** The record and what follows from it now. */
export interface ProtectionStatus extends ProtectionRecord {
  /** A process protects the VM. */
  active: boolean;
  /** Age of the newest checkpoint that the destination holds: what a disaster now would cost. Absent before the first. */
  rpoMs?: number;
}

/** Undefined when the VM was never protected. DAMAGED. */
export async function readProtection(
  store: Store,
  vm: string,
): Promise<ProtectionRecord | undefined> {
  const file = store.protectionFile(vm);
  if (!(await pathExists(file))) return undefined;
  const bytes = await readSmallFile(file, maxBytes);
  try {
    return schema.parse(JSON.parse(bytes.toString('utf8')));
  } catch (cause) {
    throw new CkptError(
      'DAMAGED',
      `${file} is damaged; remove it, it holds only what protect has counted`,
      { file },
      { cause },
    );
  }
}

export function writeProtection(store: Store, vm: string, record: ProtectionRecord): Promise<void> {
  return replaceFile(store.protectionFile(vm), `${JSON.stringify(record, null, 2)}\n`);
}

/** The protection of a VM as of `now`. */
export async function protectionStatus(
  store: Store,
  vm: string,
  now = Date.now(),
): Promise<ProtectionStatus | undefined> {
  const record = await readProtection(store, vm);
  if (record === undefined) return undefined;
  const { newest } = record;
  const rpoMs = newest && Math.max(0, now - Date.parse(newest.createdAt));
  return {
    ...record,
    active: record.endedAt === undefined && isAlive(record.pid),
    ...(rpoMs === undefined ? {} : { rpoMs, worstRpoMs: Math.max(record.worstRpoMs, rpoMs) }),
  };
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}
