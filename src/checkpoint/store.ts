/**
 * The store: a directory that holds VMs and their checkpoints as ordinary files.
 *
 *   <store>/ckptfs.json                        {"format": 1}: says that this is a store
 *   <store>/vms/<vm>/config.json               the validated configuration
 *   <store>/vms/<vm>/lock                      flock held by the VM's process; the pid inside is a hint
 *   <store>/vms/<vm>/compact.lock              flock held while checkpoints are compacted (compact_lock.ts)
 *   <store>/vms/<vm>/receive.lock              flock held while checkpoints come from elsewhere (receive_lock.ts)
 *   <store>/vms/<vm>/incoming/                 what has come of them (src/transfer/incoming.ts)
 *   <store>/vms/<vm>/control.sock              the VM's control socket
 *   <store>/vms/<vm>/status.json, console.log  the last known status, what a detached guest printed
 *   <store>/vms/<vm>/protect.lock              flock held by the process that protects the VM (src/protect)
 *   <store>/vms/<vm>/protection.json           what it has achieved (src/vmm/protection.ts)
 *   <store>/vms/<vm>/disks/<id>/<n>.redo       live redo logs, oldest first by number (disk_names.ts)
 *   <store>/vms/<vm>/orders/<id>.order         in which order restores of checkpoint <id> needed its memory
 *   <store>/vms/<vm>/checkpoints/<name>/       one published checkpoint (checkpoints.ts)
 *   <store>/vms/<vm>/checkpoints/.tmp-<id>/    an unpublished or half-removed one (publish.ts)
 *
 * Ownership: everything below vms/<vm>/ but published checkpoints is written by the holder of the VM's
 * lock alone, and orders/, which whoever restores a checkpoint replaces file by file. Published checkpoints
 * never change; any process may read them, and remove them by a rename. The holder of compact.lock may
 * exchange one for another of the same contents. The holder of protect.lock writes protection.json. The holder of receive.lock writes incoming/ and publishes
 * checkpoints that come from another store.
 * A Store value is only paths and may be shared freely.
 */
import { mkdir, readdir, readFile, rm } from 'node:fs/promises';
import { basename, join, resolve } from 'node:path';
import createDebug from 'debug';
import { CkptError, errnoOf, systemError } from '../errors.js';
import { attempt, namesIn, pathExists, readSmallFile, replaceFile, syncPath } from './files.js';
import { checkName, isName } from './names.js';

const debug = createDebug('ckptfs:store');
const storeFile = 'ckptfs.json';
const formatVersion = 1;
const maxConfigBytes = 1 << 20;
const maxMarkerBytes = 4096;
/** A new filesystem's own directory does not make a place non-empty, nor does a store being created. */
const ignorable = /^(lost\+found|ckptfs\.json\.new-[0-9a-f]{8})$/;

export class Store {
  private constructor(readonly root: string) {}

  /**
   * Opens the store at `root`; with `create` makes it where nothing is. NOT_FOUND when there is none,
   * USAGE when the directory holds something else, UNSUPPORTED when it is of a newer format.
   */
  static async open(root: string, options: { create?: boolean } = {}): Promise<Store> {
    const path = resolve(root);
    if (await pathExists(join(path, storeFile))) {
      await checkMarker(path);
    } else if (options.create === true) {
      await createStore(path);
    } else {
      await refuseMissing(path);
    }
    return new Store(path);
  }

  vmsDirectory(): string {
    return join(this.root, 'vms');
  }

  vmDirectory(vm: string): string {
    return join(this.root, 'vms', checkName('VM', vm));
  }

  configFile(vm: string): string {
    return join(this.vmDirectory(vm), 'config.json');
  }

  lockFile(vm: string): string {
    return join(this.vmDirectory(vm), 'lock');
  }

  compactionLock(vm: string): string {
    return join(this.vmDirectory(vm), 'compact.lock');
  }

  receptionLock(vm: string): string {
    return join(this.vmDirectory(vm), 'receive.lock');
  }

  incomingDirectory(vm: string): string {
    return join(this.vmDirectory(vm), 'incoming');
  }

  protectionLock(vm: string): string {
    return join(this.vmDirectory(vm), 'protect.lock');
  }

  protectionFile(vm: string): string {
    return join(this.vmDirectory(vm), 'protection.json');
  }

  statusFile(vm: string): string {
    return join(this.vmDirectory(vm), 'status.json');
  }

  consoleLog(vm: string): string {
    return join(this.vmDirectory(vm), 'console.log');
  }

  /** What a detached VM process reports after its start. */
  processLog(vm: string): string {
    return join(this.vmDirectory(vm), 'process.log');
  }

  controlSocket(vm: string): string {
    return join(this.vmDirectory(vm), 'control.sock');
  }

  diskDirectory(vm: string, disk: string): string {
    return join(this.vmDirectory(vm), 'disks', checkName('disk', disk));
  }

  checkpointsDirectory(vm: string): string {
    return join(this.vmDirectory(vm), 'checkpoints');
  }

  checkpointDirectory(vm: string, name: string): string {
    return join(this.checkpointsDirectory(vm), checkName('checkpoint', name));
  }

  ordersDirectory(vm: string): string {
    return join(this.vmDirectory(vm), 'orders');
  }

  /** What restores of the checkpoint with that id have learnt (requirement F3). */
  orderFile(vm: string, id: string): string {
    return join(this.ordersDirectory(vm), `${id}.order`);
  }

  /** The VMs by name. Directories that cannot be VMs are passed over. */
  async listVms(): Promise<string[]> {
    return (await namesIn(this.vmsDirectory())).filter(isName);
  }

  async hasVm(vm: string): Promise<boolean> {
    return pathExists(this.vmDirectory(vm));
  }

  /** Throws NOT_FOUND, with the names there are, unless the VM exists. */
  async needVm(vm: string): Promise<void> {
    if (await this.hasVm(vm)) return;
    const vms = await this.listVms();
    const hint =
      vms.length > 0 ? `there are: ${vms.slice(0, 10).join(', ')}` : 'the store has none';
    throw new CkptError('NOT_FOUND', `no VM named ${vm} in ${this.root}; ${hint}`, { vm });
  }

  /** Claims the name: makes the VM's directory. EXISTS when it is taken. */
  async createVm(vm: string): Promise<void> {
    const directory = this.vmDirectory(vm);
    try {
      await mkdir(directory, { mode: 0o700 });
    } catch (error) {
      if (errnoOf(error) !== 'EEXIST')
        throw systemError(error, `cannot create VM ${vm} in ${this.root}`);
      throw new CkptError(
        'EXISTS',
        `VM ${vm} exists already; choose another --name or remove it (ckptfs rm ${vm})`,
        { vm },
      );
    }
    await syncPath(this.vmsDirectory());
    debug('created %s', directory);
  }

  /** The first of vm1, vm2, ... that no VM has. createVm() settles races. */
  async freeVmName(): Promise<string> {
    const taken = new Set(await this.listVms());
    for (let number = 1; ; number++) {
      if (!taken.has(`vm${number}`)) return `vm${number}`;
    }
  }

  /** Stores a VM's configuration, atomically. The caller holds the VM's lock. */
  async writeConfig(vm: string, config: object): Promise<void> {
    const [path, text] = [this.configFile(vm), `${JSON.stringify(config, null, 2)}\n`];
    const known = await readFile(path, 'utf8').catch(() => undefined);
    if (known !== text) await replaceFile(path, text);
  }

  /** A VM's configuration, to be validated by the caller. DAMAGED when it is not JSON. */
  async readConfig(vm: string): Promise<unknown> {
    await this.needVm(vm);
    return parseJson(await readSmallFile(this.configFile(vm), maxConfigBytes), this.configFile(vm));
  }

  /** Whether a VM has neither a configuration nor a checkpoint yet: it is being made, or was cut short. */
  async isUnfinished(vm: string): Promise<boolean> {
    if (await pathExists(this.configFile(vm))) return false;
    return !(await namesIn(this.checkpointsDirectory(vm))).some(isName);
  }

  /** Removes what an unfinished VM has but its lock, which the caller holds. */
  async clearVm(vm: string): Promise<void> {
    const directory = this.vmDirectory(vm);
    const lock = basename(this.lockFile(vm));
    await attempt(`cannot clear VM ${vm}`, async () => {
      for (const name of await namesIn(directory)) {
        if (name !== lock) await rm(join(directory, name), { recursive: true, force: true });
      }
    });
  }

  /** Removes a VM and all it has, checkpoints included. The caller holds its lock. */
  async removeVm(vm: string): Promise<void> {
    const directory = this.vmDirectory(vm);
    await attempt(`cannot remove VM ${vm}`, async () => {
      await rm(directory, { recursive: true });
      await syncPath(this.vmsDirectory());
    });
    debug('removed %s', directory);
  }

  /** Gives a claimed name back after a failed start: removes the VM unless it has a checkpoint. */
  async abandonVm(vm: string): Promise<void> {
    if ((await namesIn(this.checkpointsDirectory(vm))).some(isName)) return;
    await this.removeVm(vm);
  }
}

/** Reads <root>/ckptfs.json. */
async function checkMarker(root: string): Promise<void> {
  const file = join(root, storeFile);
  const marker = parseJson(await readSmallFile(file, maxMarkerBytes), file);
  const format =
    typeof marker === 'object' && marker !== null && 'format' in marker && marker.format;
  if (format === formatVersion) return;
  if (typeof format === 'number') {
    throw new CkptError(
      'UNSUPPORTED',
      `the store ${root} has format ${format}, this version reads ${formatVersion}; use a newer ckptfs`,
      { store: root, format },
    );
  }
  throw new CkptError('DAMAGED', `${file} does not say {"format": ${formatVersion}}; restore it`, {
    file,
  });
}

/** Makes an empty store. The marker comes last: a directory with it has the rest. */
async function createStore(root: string): Promise<void> {
  await attempt(`cannot create the store ${root}`, async () => {
    await mkdir(root, { recursive: true, mode: 0o700 });
    await refuseForeign(root);
    try {
      await mkdir(join(root, 'vms'), { mode: 0o700 });
    } catch (error) {
      if (errnoOf(error) !== 'EEXIST') throw error;
    }
    await replaceFile(join(root, storeFile), `${JSON.stringify({ format: formatVersion })}\n`);
  });
  debug('created store %s', root);
}

/** Refuses a directory that holds anything but the beginnings of a store. */
async function refuseForeign(root: string): Promise<void> {
  const names = (await readdir(root)).filter((entry) => !ignorable.test(entry));
  if (names.length === 0 || names.includes(storeFile)) return;
  // An empty vms/ is left by a creation that was cut short, or is one under way.
  if (names.length === 1 && names[0] === 'vms' && (await readdir(join(root, 'vms'))).length === 0)
    return;
  throw new CkptError(
    'USAGE',
    `${root} is not a ckptfs store and not empty; name an empty or new directory with --store`,
    { store: root },
  );
}

async function refuseMissing(root: string): Promise<never> {
  if (await pathExists(root))
    await attempt(`cannot use the store ${root}`, () => refuseForeign(root));
  throw new CkptError(
    'NOT_FOUND',
    `no store at ${root}; name one with --store or $CKPTFS_STORE ("ckptfs run" makes it)`,
    { store: root },
  );
}

function parseJson(bytes: Uint8Array, file: string): unknown {
  try {
    return JSON.parse(Buffer.from(bytes).toString('utf8'));
  } catch {
    throw new CkptError('DAMAGED', `${file} is not JSON; restore it from a backup`, { file });
  }
}
