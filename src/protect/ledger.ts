/**
 * What the protection of one VM has achieved, kept in its file (src/vmm/protection.ts) by the one process that may: a
 * guard of protect.lock.
 *
 * A process that was killed left its numbers, and the next one goes on from them, so that what the gap cost is in
 * them. One that a person ended, or that had another destination, is history: the next one begins at zero.
 */
import createDebug from 'debug';
import { CkptError, toCkptError } from '../errors.js';
import type { Store } from '../checkpoint/store.js';
import { type FileLock, lockFile } from '../native.js';
import {
  type ProtectionRecord,
  type ProtectionStep,
  readProtection,
  writeProtection,
} from '../vmm/protection.js';

const debug = createDebug('ckptfs:protect');
const maxMessageChars = 1000;

export type ProtectionSettings = Pick<
  ProtectionRecord,
  'to' | 'everyMs' | 'afterWrittenBytes' | 'keep' | 'commitBytes'
>;

export class Ledger implements AsyncDisposable {
  #written: Promise<void> = Promise.resolve();

  private constructor(
    private readonly store: Store,
    readonly vm: string,
    readonly record: ProtectionRecord,
    /** The last process was killed. */
    readonly brokenOff: boolean,
    private readonly lock: FileLock,
  ) {}

  /** BUSY when the VM is being protected already, NOT_FOUND when there is no such VM. */
  static async open(store: Store, vm: string, settings: ProtectionSettings): Promise<Ledger> {
    await store.needVm(vm);
    const lock = lockFile(store.protectionLock(vm));
    if (!lock) {
      throw new CkptError(
        'BUSY',
        `VM ${vm} is being protected already; see ckptfs protect --status ${vm}`,
        { vm },
      );
    }
    // It holds nothing that has to be right: one that cannot be read is begun anew.
    const before = await readProtection(store, vm).catch(() => undefined);
    const same = before?.to === settings.to ? before : undefined;
    const brokenOff = same !== undefined && same.endedAt === undefined;
    const { newest } = same ?? {};
    const record: ProtectionRecord = {
      ...(brokenOff ? same : fresh(newest)),
      ...settings,
      pid: process.pid,
    };
    const ledger = new Ledger(store, vm, record, brokenOff, lock);
    ledger.#changed();
    return ledger;
  }

  taken(): void {
    this.record.taken++;
    this.#changed();
  }

  shipped(bytes: number): void {
    this.record.shipped++;
    this.record.shippedBytes += bytes;
    this.#changed();
  }

  committed(): void {
    this.record.committed++;
    this.#changed();
  }

  missed(why: string, intervals: number): void {
    this.record.missed += intervals;
    this.record.lastMissed = { at: new Date().toISOString(), why: why.slice(0, maxMessageChars) };
    this.#changed();
  }

  /** True when that was not known yet. */
  failed(step: ProtectionStep, reason: string): boolean {
    const message = reason.slice(0, maxMessageChars);
    if (this.record.failures[step]?.message === message) return false;
    this.record.failures[step] = { at: new Date().toISOString(), message };
    this.#changed();
    return true;
  }

  /** True when it had failed before. */
  works(step: ProtectionStep): boolean {
    if (this.record.failures[step] === undefined) return false;
    const others = Object.entries(this.record.failures).filter(([one]) => one !== step);
    this.record.failures = Object.fromEntries(others);
    this.#changed();
    return true;
  }

  /**
   * The destination is seen to hold `newest`, at the time `now`. What it held before has been the newest until now,
   * which is the oldest that it can have got. Returns the age of `newest`.
   */
  holds(newest: { name: string; createdAt: string }, now = Date.now()): number {
    const { newest: before, worstRpoMs } = this.record;
    const age = (createdAt: string): number => Math.max(0, now - Date.parse(createdAt));
    const was = before ?? newest;
    this.record.worstRpoMs = Math.max(worstRpoMs, age(was.createdAt));
    if (before?.name !== newest.name || before.createdAt !== newest.createdAt) {
      this.record.newest = { name: newest.name, createdAt: newest.createdAt };
    }
    this.#changed();
    return age(newest.createdAt);
  }

  /** It was ended, and not killed. */
  end(): void {
    this.record.endedAt = new Date().toISOString();
    this.#changed();
  }

  /** Resolves when the file says all that is known. */
  settled(): Promise<void> {
    return this.#written;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#written;
    this.lock.unlock();
  }

  #changed(): void {
    const record = structuredClone(this.record);
    this.#written = this.#written
      .then(() => writeProtection(this.store, this.vm, record))
      .catch((error: unknown) => debug('%s: %s', this.vm, toCkptError(error).message));
  }
}

function fresh(newest: ProtectionRecord['newest']) {
  return {
    since: new Date().toISOString(),
    ...{ taken: 0, shipped: 0, shippedBytes: 0, missed: 0, committed: 0, worstRpoMs: 0 },
    failures: {},
    ...(newest ? { newest } : {}),
  };
}
