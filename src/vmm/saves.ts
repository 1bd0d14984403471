/**
 * The checkpoints that a VM's process takes: one at a time, each told when it is published or, when nobody
 * waits for it any more, that it has failed.
 *
 * Lives on the JavaScript thread. `current` is set from the call of take() until its end, on every path.
 */
import createDebug from 'debug';
import { completeRequest } from '../checkpoint/request.js';
import { saveCheckpoint, type SaveContext, type SaveHooks } from '../checkpoint/save.js';
import { CkptError, toCkptError } from '../errors.js';
import type {
  CheckpointEvent,
  CheckpointFailure,
  CheckpointRequest,
  CheckpointSummary,
  GroupStep,
} from '../types.js';

const debug = createDebug('ckptfs:vm');

/** A checkpoint being saved. */
export interface SaveUnderWay {
  /** Empty until the pause is over. */
  id: string;
  name: string;
  begunAt: Date;
  /** From here on its memory can be read. */
  paused: boolean;
  suspend: boolean;
  /** Of several VMs: the id of the group, and the step at which it waits for the others. */
  group?: string | undefined;
  waitsAt?: GroupStep | undefined;
}

export class Saves {
  current: SaveUnderWay | undefined;
  /** Of the last checkpoint that failed untold, until one is published. */
  lastError: CheckpointFailure | undefined;
  /** Why none can be taken for now, if that is so. */
  obstacle: () => string | undefined = () => undefined;
  readonly #context: SaveContext;
  readonly #tell: (event: CheckpointEvent) => void;
  #cancel = new AbortController();
  /** Lets the save under way be published. */
  #publish: () => void = () => {};
  #ended: Promise<unknown> = Promise.resolve();

  constructor(context: SaveContext, tell: (event: CheckpointEvent) => void) {
    this.#context = context;
    this.#tell = tell;
  }

  /**
   * Takes a checkpoint and publishes it; without `wait` resolves after its pause. `settle` runs at its end,
   * before anybody is told: with the summary, or with undefined when it has failed. BUSY while another one
   * is being saved.
   */
  async take(
    request: CheckpointRequest,
    hooks: SaveHooks = {},
    settle: (summary: CheckpointSummary | undefined) => void = () => {},
  ): Promise<CheckpointSummary> {
    const complete = completeRequest(request);
    this.refuseBusy();
    const save: SaveUnderWay = {
      id: '',
      name: complete.name ?? '',
      begunAt: new Date(),
      paused: false,
      suspend: complete.suspend,
      group: complete.group?.id,
    };
    this.current = save;
    this.#cancel = new AbortController();
    let answered = false;
    let answer: (summary: CheckpointSummary) => void = () => {};
    const afterPause = new Promise<CheckpointSummary>((resolve) => (answer = resolve));
    const signal = AbortSignal.any([...(hooks.signal ? [hooks.signal] : []), this.#cancel.signal]);
    const done = saveCheckpoint(this.#context, complete, {
      ...hooks,
      signal,
      onStep: (step) => {
        save.waitsAt = step;
        hooks.onStep?.(step);
      },
      mayPublish: () => this.#mayPublish(signal),
      onResumed: (summary) => {
        Object.assign(save, { id: summary.id, name: summary.name, paused: true });
        hooks.onResumed?.(summary);
        answered = !complete.wait;
        answer(summary);
      },
    }).then(
      (summary) => {
        this.current = undefined;
        settle(summary);
        this.lastError = undefined;
        this.#tell({ type: 'published', checkpoint: summary });
        return summary;
      },
      (error: unknown) => {
        this.current = undefined;
        settle(undefined);
        if (answered) this.#failed(save.name, error);
        throw this.#cancel.signal.aborted && !hooks.signal?.aborted ? this.#stopped(error) : error;
      },
    );
    this.#ended = done.catch((error: unknown) => debug('checkpoint: %o', error));
    return complete.wait ? done : Promise.race([afterPause, done]);
  }

  /** Lets the checkpoint of `group` that waits at `step` go on. USAGE when none does. */
  proceed(group: string, step: GroupStep): void {
    const save = this.current;
    if (save?.group !== group || save.waitsAt !== step) {
      throw new CkptError(
        'USAGE',
        `VM ${this.#context.config.name} has no checkpoint of that group that waits there; take a new one`,
      );
    }
    save.waitsAt = undefined;
    if (step === 'saved') this.#publish();
    else this.#context.machine.proceedSave(step);
  }

  /** BUSY while a checkpoint is being saved, or none can be. */
  refuseBusy(): void {
    const why = this.obstacle();
    if (why !== undefined) {
      throw new CkptError('BUSY', `VM ${this.#context.config.name}: ${why}; wait for that`);
    }
    if (!this.current) return;
    throw new CkptError(
      'BUSY',
      `VM ${this.#context.config.name} is saving checkpoint ${this.current.name}; wait for it or cancel it`,
    );
  }

  /** Notes and tells a failure that no caller hears of. */
  failed(name: string, error: unknown): void {
    this.#failed(name, error);
  }

  /** Resolves when the save under way has ended, if there is one. */
  async settled(): Promise<void> {
    await this.#ended;
  }

  /** Cancels the save under way, since the VM is being closed, and resolves when it has ended. */
  async cancel(): Promise<void> {
    this.#cancel.abort();
    await this.#ended;
  }

  /** What whoever asked for the save is told: nobody there has cancelled it. */
  #stopped(cause: unknown): CkptError {
    const vm = this.#context.config.name;
    return new CkptError(
      'CANCELLED',
      `VM ${vm} was stopped before its checkpoint was complete`,
      { vm },
      { cause },
    );
  }

  /** Resolves at proceed(), rejects when the save is cancelled. */
  #mayPublish(signal: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#publish = resolve;
      const cancel = (): void => reject(new CkptError('CANCELLED', 'the checkpoint was cancelled'));
      signal.addEventListener('abort', cancel, { once: true });
      if (signal.aborted) cancel();
    });
  }

  #failed(name: string, error: unknown): void {
    const { code, message } = toCkptError(error);
    if (code === 'CANCELLED') return;
    this.lastError = { name, code, message, at: new Date().toISOString() };
    this.#tell({ type: 'failed', failure: this.lastError });
  }
}
