/**
 * Checkpoints by themselves (requirement B1): every so often, when enough memory has been written, or at an
 * event such as a signal. The oldest of them may be removed again.
 *
 * Never two at once: what falls due while another save is under way, or while the guest does not run, is
 * missed, counted, and told once in a row. Lives on the JavaScript thread, from start() to stop(); timers keep
 * no process alive.
 */
import { CkptError, toCkptError } from '../errors.js';
import type { ScheduleConfig, ScheduleStatus } from '../types.js';

/** What a schedule needs of its VM. */
export interface Scheduled {
  /** Why none can be taken now; undefined when one can. */
  obstacle(): string | undefined;
  /** Memory written since the last checkpoint. */
  dirtyBytes(): number;
  /** Takes a checkpoint; resolves with its name when it is published. */
  take(): Promise<string>;
  /** Removes the scheduled checkpoints but the newest `keep`. */
  prune(keep: number): Promise<void>;
  /** One fell due when it could not be taken; told once in a row. */
  onMissed(why: string): void;
  onFailed(error: CkptError): void;
}

export interface ScheduleTimes {
  /** How often to look at what has been written. */
  writtenPollMs: number;
  /** How long after a failure what has been written does not count. */
  retryMs: number;
}

const defaultTimes: ScheduleTimes = { writtenPollMs: 1000, retryMs: 60_000 };

export class Schedule {
  readonly #config: ScheduleConfig;
  readonly #vm: Scheduled;
  readonly #times: ScheduleTimes;
  #timers: NodeJS.Timeout[] = [];
  #underWay: Promise<void> | undefined;
  #stopped = false;
  #nextAt: Date | undefined;
  #last: { name: string; at: Date } | undefined;
  #failedMs = -Infinity;
  #taken = 0;
  #missed = 0;
  /** The obstacle told last; forgotten when a checkpoint can be taken again. */
  #told: string | undefined;

  constructor(config: ScheduleConfig, vm: Scheduled, times: Partial<ScheduleTimes> = {}) {
    this.#config = config;
    this.#vm = vm;
    this.#times = { ...defaultTimes, ...times };
  }

  /** From now on checkpoints are taken. */
  start(): void {
    const { everySeconds, afterWrittenBytes } = this.#config;
    if (everySeconds !== undefined) {
      this.#every(everySeconds * 1000, () => {
        this.#nextAt = new Date(Date.now() + everySeconds * 1000);
        this.declare();
      });
      this.#nextAt = new Date(Date.now() + everySeconds * 1000);
    }
    if (afterWrittenBytes !== undefined) {
      this.#every(this.#times.writtenPollMs, () => {
        const waits = performance.now() - this.#failedMs < this.#times.retryMs;
        if (waits || this.#underWay || this.#vm.obstacle() !== undefined) return;
        if (this.#vm.dirtyBytes() >= afterWrittenBytes) this.declare();
      });
    }
  }

  /** Takes a checkpoint now, unless there is an obstacle: then it is missed. */
  declare(): void {
    if (this.#stopped) return;
    const why = this.#underWay ? 'the one before is still being saved' : this.#vm.obstacle();
    if (why !== undefined) {
      this.#missed++;
      if (this.#told !== why) this.#vm.onMissed(why);
      this.#told = why;
      return;
    }
    this.#told = undefined;
    this.#underWay = this.#take().finally(() => (this.#underWay = undefined));
  }

  /** No more checkpoints; resolves when one under way has ended, which the caller cancels. */
  async stop(): Promise<void> {
    this.#stopped = true;
    this.#nextAt = undefined;
    for (const timer of this.#timers.splice(0)) clearInterval(timer);
    await this.#underWay;
  }

  status(): ScheduleStatus {
    return {
      ...this.#config,
      taken: this.#taken,
      missed: this.#missed,
      ...(this.#nextAt ? { nextAt: this.#nextAt.toISOString() } : {}),
      ...(this.#last ? { last: this.#last.name, lastAt: this.#last.at.toISOString() } : {}),
    };
  }

  #every(ms: number, work: () => void): void {
    this.#timers.push(setInterval(work, ms).unref());
  }

  async #take(): Promise<void> {
    try {
      const at = new Date();
      this.#last = { name: await this.#vm.take(), at };
      this.#taken++;
      if (this.#config.keep !== undefined) await this.#vm.prune(this.#config.keep);
    } catch (error) {
      this.#failedMs = performance.now();
      this.#vm.onFailed(toCkptError(error));
    }
  }
}
