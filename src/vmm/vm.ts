/**
 * A virtual machine in its own process: from configuration or checkpoint to a running guest.
 *
 * A Vm holds its VM's lock from creation to close(); everything in the VM's directory but published
 * checkpoints is written by it alone. Verbs are called from the JavaScript thread; the guest runs on the
 * addon's threads and never waits for JavaScript.
 */
import { EventEmitter } from 'node:events';
import createDebug from 'debug';
import {
  type CheckpointEntry,
  listCheckpointNames,
  openCheckpoint,
} from '../checkpoint/checkpoints.js';
import { makePrivateDirectory } from '../checkpoint/files.js';
import { cleanUnpublished } from '../checkpoint/publish.js';
import type { SaveHooks } from '../checkpoint/save.js';
import type { Store } from '../checkpoint/store.js';
import { CkptError } from '../errors.js';
import {
  type ByteSource,
  type GuestExit,
  type MachineEvent,
  type NativeDiskConfig,
  NativeMachine,
  openRestoreImage,
  type RestoreProgress,
  type TaskHooks,
} from '../native.js';
import { type Arriving, VmArrival } from './arriving.js';
import { type BootPlan, loadGuest, planBoot } from './boot.js';
import { type Claim, claimExisting, claimNew, releasingOnFailure } from './claim.js';
import { checkDisks, completeConfig, storedConfig } from './config.js';
import { type ControlServer, serveControl } from './control.js';
import { nextRedo } from './disk_base.js';
import { DiskWork } from './disk_work.js';
import { bootDisks, keepRestoredDisks, restoreDisks, returnReplacedDisks } from './disks.js';
import { CheckpointTally, metricsText } from './metrics.js';
import { protectionStatus } from './protection.js';
import { ConsoleLog, StatusFile } from './reports.js';
import { Saves } from './saves.js';
import type { Schedule } from './schedule.js';
import { scheduleOf } from './scheduled.js';
import { Upkeep } from './upkeep.js';
import type {
  CheckpointEvent,
  CheckpointRequest,
  CheckpointSummary,
  CommitOptions,
  CommitSummary,
  CompactDiskOptions,
  CompactDiskSummary,
  VmConfig,
  VmConfigInput,
  VmProcess,
  VmStatus,
} from '../types.js';

const debug = createDebug('ckptfs:vm');

/** Where a VM goes on from, and how. */
export interface RestoreOptions {
  /** By default the VM that the checkpoint was taken of. */
  name?: string;
  /** The guest runs before its memory is there. */
  lazy: boolean;
  /** Limit on what is loaded in the background. */
  limitBytesPerSecond?: number | undefined;
  /** What brings the checkpoint, of which not all is there yet. */
  arriving?: Arriving | undefined;
}

interface VmEvents {
  console: [data: Buffer];
  exit: [exit: GuestExit];
  error: [error: Error];
  checkpoint: [event: CheckpointEvent];
}

export class Vm extends EventEmitter<VmEvents> implements VmProcess {
  readonly name: string;
  readonly #store: Store;
  readonly #config: VmConfig;
  readonly #claim: Claim;
  readonly #machine: NativeMachine;
  readonly #consoleLog: ConsoleLog;
  readonly #statusFile: StatusFile;
  readonly #startedAt = new Date();
  #server: ControlServer | undefined;
  #exit: GuestExit | undefined;
  readonly #saves: Saves;
  readonly #schedule: Schedule;
  readonly #upkeep: Upkeep;
  readonly #tally = new CheckpointTally();
  readonly #disks: DiskWork;
  /** Resolves when the disks that a restore has replaced are gone. */
  #settled: Promise<void> = Promise.resolve();
  #paused = false;
  #suspended: { id: string; name: string } | undefined;
  #restore: { id: string; begunAt: string; preparedUs: number } | undefined;
  #closed: Promise<void> | undefined;
  #arrival: VmArrival | undefined;
  /** Where this process serves its mount, for status; set by whoever mounts. */
  mountpoint: string | undefined;

  private constructor(store: Store, config: VmConfig, claim: Claim, disks: NativeDiskConfig[]) {
    super();
    this.name = config.name;
    this.#store = store;
    this.#config = config;
    this.#claim = claim;
    const { memoryBytes, cpus, geometry, trace } = config;
    this.#machine = new NativeMachine({ memoryBytes, cpus, geometry, trace, disks }, (event) =>
      this.#onEvent(event),
    );
    this.#upkeep = new Upkeep(store, config.name);
    const tell = (event: CheckpointEvent): void => {
      if (event.type === 'published') this.#upkeep.look();
      this.#tally.note(event);
      this.emit('checkpoint', event);
    };
    this.#saves = new Saves(
      {
        store,
        config,
        machine: this.#machine,
        nextRedo: (disk) => nextRedo(store.diskDirectory(config.name, disk)),
      },
      tell,
    );
    const parts = { store, config, machine: this.#machine, saves: this.#saves };
    this.#disks = new DiskWork(parts);
    this.#schedule = scheduleOf({ ...parts, disks: this.#disks, upkeep: this.#upkeep, tell });
    this.#consoleLog = new ConsoleLog(store.consoleLog(config.name));
    this.#statusFile = new StatusFile(store.statusFile(config.name));
  }

  /** A VM that boots its kernel. EXISTS when the name is taken; nothing is left behind on failure. */
  static async create(store: Store, input: VmConfigInput): Promise<Vm> {
    const name = input.name ?? (await store.freeVmName());
    const config = completeConfig({ ...input, name });
    await checkDisks(config);
    const plan = await planBoot(config.memoryBytes, config.kernel, config.initrd);
    const claim = await claimNew(store, name);
    return Vm.#boot(store, config, plan, claim);
  }

  /** Boots a stopped VM again, with its configuration and its disks as they are. */
  static async restart(store: Store, name: string): Promise<Vm> {
    const config = await storedConfig(store, name);
    await checkDisks(config);
    const plan = await planBoot(config.memoryBytes, config.kernel, config.initrd);
    return Vm.#boot(store, config, plan, claimExisting(store, name));
  }

  static async #boot(store: Store, config: VmConfig, plan: BootPlan, claim: Claim): Promise<Vm> {
    return releasingOnFailure(store, config.name, claim, async () => {
      await cleanUnpublished(store, config.name);
      const vm = new Vm(store, config, claim, await bootDisks(store, config));
      try {
        loadGuest(vm.#machine, config, plan);
        await store.writeConfig(config.name, config);
        return vm;
      } catch (error) {
        await vm.#end();
        throw error;
      }
    });
  }

  /**
   * A VM that goes on from a checkpoint: by default as the VM it was taken of, whose disks then go back to
   * the checkpoint, or as a new VM of another name. What the restore learns of the order in which the guest
   * needs its memory stays with the VM of `entry`, if that is named.
   */
  static async restore(
    store: Store,
    entry: Pick<CheckpointEntry, 'directory'> & Partial<CheckpointEntry>,
    options: RestoreOptions,
  ): Promise<Vm> {
    const [begun, begunAt] = [process.hrtime.bigint(), new Date().toISOString()];
    // Takes the longest, so it goes on beside the rest.
    const image = openRestoreImage(entry.directory);
    image.catch(() => undefined);
    const checkpoint = await openCheckpoint(entry.directory);
    const { manifest } = checkpoint;
    const name = options.name ?? manifest.vm;
    const config = completeConfig({ ...(manifest.config as VmConfigInput), name });
    const inPlace = name === manifest.vm && (await store.hasVm(name));
    const claim = inPlace ? claimExisting(store, name) : await claimNew(store, name);
    return releasingOnFailure(store, name, claim, async () => {
      await cleanUnpublished(store, name);
      const disks = await restoreDisks(store, config, checkpoint, options);
      let vm: Vm | undefined;
      try {
        vm = new Vm(store, config, claim, disks);
        vm.#restore = {
          ...{ id: manifest.id, begunAt },
          preparedUs: Number((process.hrtime.bigint() - begun) / 1000n),
        };
        if (entry.vm !== undefined) await makePrivateDirectory(store.ordersDirectory(entry.vm));
        const request = {
          id: manifest.id,
          deviceState: checkpoint.deviceState,
          lazy: options.lazy,
          ...(entry.vm === undefined ? {} : { orderFile: store.orderFile(entry.vm, manifest.id) }),
          ...(options.limitBytesPerSecond === undefined
            ? {}
            : { limitBytesPerSecond: options.limitBytesPerSecond }),
        };
        await vm.#machine.restore(request, await image);
        if (options.arriving) return vm.#arrive(options.arriving);
        await store.writeConfig(name, config);
        vm.#settled = keepRestoredDisks(store, name);
        vm.#settled.catch((error: unknown) => debug('%s: %o', name, error)); // the next start does it
        return vm;
      } catch (error) {
        if (vm) await vm.#end();
        await returnReplacedDisks(store, name);
        throw error;
      }
    });
  }

  get config(): VmConfig {
    return this.#config;
  }

  /** Runs the guest. */
  async start(): Promise<void> {
    await this.#machine.start();
    this.#schedule.start();
    await this.#writeStatus();
  }

  /** Serves the control socket. */
  async serve(): Promise<void> {
    this.#server = await serveControl(
      {
        status: () => this.status(),
        metrics: () => this.#metrics(),
        pause: () => this.pause(),
        resume: () => this.resume(),
        stop: () => this.stop(),
        retry: () => this.retryRestore(),
        checkpoint: (request, hooks) => this.checkpoint(request, hooks),
        proceed: (group, step) => this.#saves.proceed(group, step),
        commitDisk: (disk, options, hooks) => this.commitDisk(disk, options, hooks),
        compactDisk: (disk, options, hooks) => this.compactDisk(disk, options, hooks),
        consoleInput: (data) => this.consoleInput(data),
        onConsole: (listener) => {
          this.on('console', listener);
          return () => this.off('console', listener);
        },
      },
      this.#store.controlSocket(this.name),
    );
  }

  /** Stops every vCPU at an instruction boundary; guest time stands still. BUSY when paused already. */
  async pause(): Promise<void> {
    this.#refuseSuspending();
    if (this.#paused) throw new CkptError('BUSY', `VM ${this.name} is paused already`);
    this.#paused = true;
    try {
      await this.#machine.pause();
    } catch (error) {
      this.#paused = false;
      throw error;
    }
    await this.#writeStatus();
  }

  /** Lets a paused or suspended guest go on. BUSY while it is being suspended. */
  resume(): void {
    this.#refuseSuspending();
    if (!this.#paused) throw new CkptError('USAGE', `VM ${this.name} is not paused`);
    this.#machine.resume(); // fails while the pause is not complete yet
    this.#paused = false;
    this.#suspended = undefined;
    void this.#writeStatus();
  }

  /** Ends the VM as if its plug were pulled; emits `exit` of kind `stopped` unless the guest had ended. */
  async stop(): Promise<void> {
    await this.close();
    if (this.#exit) return;
    this.#exit = { kind: 'stopped', reason: 0 };
    this.emit('exit', this.#exit);
  }

  /** Takes a checkpoint and publishes it. BUSY while another one is being saved. */
  async checkpoint(request: CheckpointRequest, hooks: SaveHooks = {}): Promise<CheckpointSummary> {
    this.#disks.refuseBusy();
    return this.#saves.take(request, hooks, (summary) => {
      if (request.suspend === true) this.#endSuspending(summary);
    });
  }

  /** Resolves when nothing goes on that does not need the guest: a checkpoint after its pause, or one still arriving. */
  async saved(): Promise<void> {
    await Promise.all([this.#saves.settled(), this.#arrival?.settled()]);
  }

  /** Commits the redo logs of a disk into its parent while the guest goes on. BUSY during a checkpoint. */
  commitDisk(
    id: string,
    options: CommitOptions = {},
    hooks: TaskHooks = {},
  ): Promise<CommitSummary> {
    return this.#disks.commit(id, options, hooks);
  }

  /** Rewrites redo logs of a disk that are mostly of no use any more. BUSY as for a commit. */
  compactDisk(
    id: string,
    options: CompactDiskOptions = {},
    hooks: TaskHooks = {},
  ): Promise<CompactDiskSummary> {
    return this.#disks.compact(id, options, hooks);
  }

  /** Takes a checkpoint of the schedule's kind now, if one can be taken: an event has declared it. */
  declareCheckpoint(): void {
    this.#schedule.declare();
  }

  /** The checkpoint under way, once its memory can be read. */
  saving(): { id: string; name: string; begunAt: Date } | undefined {
    return this.#saves.current?.paused === true ? this.#saves.current : undefined;
  }

  /** RAM of the checkpoint under way (requirement F1); stays readable when that is complete. */
  savingMemory(): ByteSource {
    return this.#machine.savingMemory();
  }

  consoleInput(data: Uint8Array): void {
    this.#machine.consoleInput(data);
  }

  /** Guest RAM now. */
  memory(): ByteSource {
    return this.#machine.memory();
  }

  /** A virtual disk now, merged. */
  disk(id: string): ByteSource {
    return this.#machine.disk(id);
  }

  /** RAM as it was in the pause of the last checkpoint with `oracle`, for tests. */
  oracle(): Buffer {
    return this.#machine.oracle();
  }

  /** After a failed read of the restore's source has been mended: the guest goes on. */
  async retryRestore(): Promise<void> {
    if (this.#arrival?.retry() === true && this.#machine.status().state !== 'failed') return;
    await this.#machine.retryRestore();
  }

  /** The restore this VM came from, with times counted from the call of restore(). */
  restoreProgress(): RestoreProgress | undefined {
    const progress = this.#machine.restoreProgress();
    if (!progress || !this.#restore) return undefined;
    const { preparedUs } = this.#restore;
    const since = (us: number): number => (us > 0 ? us + preparedUs : 0);
    return {
      ...progress,
      firstInstructionUs: since(progress.firstInstructionUs),
      completeUs: since(progress.completeUs),
    };
  }

  status(): VmStatus {
    const machine = this.#machine.status();
    const progress = this.#machine.saveProgress();
    const { current: save, lastError } = this.#saves;
    const restore = this.restoreProgress();
    const arriving = this.#arrival?.status();
    const { id, begunAt } = this.#restore ?? { id: '', begunAt: '' };
    return {
      vm: this.name,
      state: machine.state === 'created' ? 'starting' : machine.state,
      pid: process.pid,
      startedAt: this.#startedAt.toISOString(),
      memoryBytes: this.#config.memoryBytes,
      cpus: this.#config.cpus,
      instructions: machine.instructions,
      guestTicks: machine.guestTicks,
      faults: machine.faults,
      mappings: machine.mappings,
      dirtyBytes: machine.dirtyBytes,
      ...(machine.trackedId === undefined ? {} : { trackedId: machine.trackedId }),
      ...(this.#suspended ? { suspended: this.#suspended } : {}),
      ...(lastError ? { lastError } : {}),
      ...(this.#config.schedule ? { schedule: this.#schedule.status() } : {}),
      ...(machine.error === undefined ? {} : { error: machine.error }),
      ...(this.#exit ? { exit: this.#exit } : {}),
      ...(save && progress ? { save: { ...progress, id: save.id, name: save.name } } : {}),
      ...(restore ? { restore: { ...restore, id, begunAt } } : {}),
      ...(arriving ? { arriving } : {}),
      ...(this.mountpoint === undefined ? {} : { mount: this.mountpoint }),
    };
  }

  async #metrics(): Promise<string> {
    const checkpoints = (await listCheckpointNames(this.#store, this.name)).length;
    // A record that cannot be read must not take the other metrics away.
    const protection = await protectionStatus(this.#store, this.name).catch(() => undefined);
    return metricsText({ status: this.status(), tally: this.#tally, checkpoints, protection });
  }

  /** Stops the guest, cancels a save under way, closes the disks and releases the lock. */
  close(): Promise<void> {
    this.#closed ??= this.#end().finally(() => this.#claim.lock.unlock());
    return this.#closed;
  }

  /** All of close() but the lock, which a failed start needs longer. */
  async #end(): Promise<void> {
    const scheduled = this.#schedule.stop();
    await this.#disks.cancel();
    await this.#saves.cancel();
    await scheduled;
    await this.#upkeep.stop();
    await this.#writeStatus('ended');
    this.#arrival?.fail();
    await this.#machine.close();
    await this.#arrival?.end();
    await this.#settled.catch(() => undefined); // logged already
    await this.#consoleLog.end();
    this.#server?.close();
  }

  #arrive(arriving: Arriving): this {
    const arrival = new VmArrival(arriving, {
      ...{ store: this.#store, config: this.#config },
      progress: () => this.#machine.restoreProgress(),
      state: () => this.#machine.status().state,
      onWhole: () => void this.#writeStatus(),
      onBroken: (error) => {
        this.emit('error', error);
        void this.stop();
      },
    });
    this.#arrival = arrival;
    this.#saves.obstacle = () => arrival.obstacle();
    return this;
  }

  #refuseSuspending(): void {
    if (this.#saves.current?.suspend !== true) return;
    throw new CkptError(
      'BUSY',
      `VM ${this.name} is being suspended; wait for checkpoint ${this.#saves.current.name} or cancel it`,
    );
  }

  /** The guest of a suspending checkpoint stays paused, unless that has failed: then it goes on. */
  #endSuspending(summary: CheckpointSummary | undefined): void {
    if (summary) {
      this.#paused = true;
      this.#suspended = { id: summary.id, name: summary.name };
    } else if (!this.#paused && this.#machine.status().state === 'paused') {
      this.#machine.resume();
    }
    void this.#writeStatus();
  }

  #onEvent(event: MachineEvent): void {
    switch (event.type) {
      case 'console':
        this.#consoleLog.write(event.data);
        this.emit('console', event.data);
        break;
      case 'exit':
        this.#exit = event.exit;
        this.emit('exit', event.exit);
        break;
      case 'error':
        debug('machine: %s', event.message);
        if (this.#closed) break; // it comes of being closed
        this.emit(
          'error',
          new CkptError(
            'DAMAGED',
            `${event.message}; put the file right, then "ckptfs retry ${this.name}" lets the VM go on`,
          ),
        );
        break;
    }
  }

  /** Reports the status, as of `state` when that is given. */
  #writeStatus(state?: VmStatus['state']): Promise<void> {
    return this.#statusFile.write({ ...this.status(), ...(state ? { state } : {}) });
  }
}
