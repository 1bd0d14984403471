/**
 * The checkpoint program (requirements D7, D8, D10): every interval, or when the guest has written enough, a live
 * checkpoint of each VM is taken, sent to a second place, and the oldest are removed on both sides.
 *
 * It holds no state of its own that matters: what is due follows from the checkpoints of the store, what is to be sent
 * from what the destination lacks. So it can be killed at any point, as can the VM, the connection and the far end.
 * Each VM has its own pace and its own connection; none waits for another.
 */
import { pathExists } from '../checkpoint/files.js';
import type { Store } from '../checkpoint/store.js';
import { CkptError } from '../errors.js';
import { DirectoryTarget } from '../transfer/directory_target.js';
import { parseDestination } from '../transfer/destination.js';
import { openTarget } from '../transfer/open.js';
import type { SshOptions } from '../transfer/dial.js';
import type { CheckpointRequest } from '../types.js';
import { type Clock, systemClock } from './clock.js';
import type { ProtectEvent } from './events.js';
import { Ledger } from './ledger.js';
import { ProtectedVm } from './protected_vm.js';

const minuteMs = 60_000;

export interface ProtectOptions extends SshOptions {
  /** A directory or ssh://[user@]host[:port]/path. */
  to: string;
  /** Milliseconds between two checkpoints; 10 minutes by default. */
  everyMs?: number | undefined;
  /** A checkpoint also when so much memory has been written since the last. */
  afterWrittenBytes?: number | undefined;
  /** How many checkpoints of protection stay on each side; all by default. */
  keep?: number | undefined;
  /** Commits the redo logs that have been sent once they hold so much (requirement D8); never by default. */
  commitBytes?: number | undefined;
  request?: Omit<CheckpointRequest, 'name' | 'wait' | 'suspend'>;
}

export interface ProtectHooks {
  onEvent?: (event: ProtectEvent) => void;
  /** All VMs are claimed, and protection begins. */
  onReady?: () => Promise<void>;
  /** Ends protection; without it there is no end. */
  signal?: AbortSignal;
}

/** Times that a test shortens. */
export interface ProtectTimes {
  clock?: Clock;
  /** How often to look at what the guest has written, or whether an overdue checkpoint can be taken. */
  pollMs?: number;
  /** The first wait after a failed transfer; it doubles up to the second. */
  retryMs?: readonly [first: number, most: number];
}

/**
 * Protects VMs until the signal aborts, then resolves. Rejects only at the start: USAGE (the destination, no VM),
 * NOT_FOUND (a VM), BUSY (one that is protected already). Everything later is told by events, and tried again.
 */
export async function protect(
  store: Store,
  vms: readonly string[],
  options: ProtectOptions,
  { onEvent = () => undefined, onReady, signal = new AbortController().signal }: ProtectHooks = {},
  times: ProtectTimes = {},
): Promise<void> {
  const { to, everyMs = 10 * minuteMs, afterWrittenBytes, keep, commitBytes, request } = options;
  if (vms.length === 0) throw new CkptError('USAGE', 'no VM to protect; name at least one');
  if (!(everyMs > 0)) throw new CkptError('USAGE', 'an interval must be longer than nothing');
  if (keep !== undefined && !(keep >= 1)) {
    throw new CkptError('USAGE', 'at least one checkpoint is kept');
  }
  await refuseSame(store, to);
  const { ssh, remoteProgram } = options;
  const { clock = systemClock, pollMs = 1000, retryMs = [1000, 30_000] } = times;
  const settings = { to, everyMs, afterWrittenBytes, keep, commitBytes };
  const ended = new AbortController();
  const ledgers: Ledger[] = [];
  try {
    for (const vm of new Set(vms)) ledgers.push(await Ledger.open(store, vm, settings));
    await onReady?.();
    await Promise.all(
      ledgers.map((ledger) => {
        // One of its own: each of them has several listeners.
        const ends = AbortSignal.any([signal, ended.signal]);
        return new ProtectedVm(
          {
            ...{ store, vm: ledger.vm, ledger, keep, commitBytes, request, clock, retryMs },
            pace: { everyMs, afterWrittenBytes, pollMs, retryMs: Math.min(everyMs, 5 * pollMs) },
            open: (create) => openTarget(to, { create, ssh, remoteProgram, signal: ends }),
            tell: onEvent,
          },
          ends,
        ).run();
      }),
    );
  } finally {
    ended.abort();
    for (const ledger of ledgers) {
      if (signal.aborted) ledger.end();
      await ledger[Symbol.asyncDispose]();
    }
  }
}

/** USAGE where the destination is no destination, or the store itself. */
async function refuseSame(store: Store, to: string): Promise<void> {
  const destination = parseDestination(to);
  if (destination.kind !== 'directory' || !(await pathExists(destination.path))) return;
  // A directory that cannot be used now is met again, and told, when something is to be sent there.
  const target = await DirectoryTarget.open(destination.path).catch(() => undefined);
  await target?.refuseSame(store);
}
