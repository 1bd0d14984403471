/**
 * Tells where VMs and checkpoints come, go and are exchanged in a store, whoever does it, by watching three
 * kinds of directories: vms/, each VM's, and its checkpoints/. Only what this machine does is heard of.
 */
import { type FSWatcher, readdirSync, watch } from 'node:fs';
import { basename } from 'node:path';
import { isName } from '../checkpoint/names.js';
import type { Store } from '../checkpoint/store.js';
import { errnoOf } from '../errors.js';

/** As in {@link StoreView.watch}. */
export type Changed = (directory: string, name: string | undefined) => void;

export class StoreWatch {
  readonly #store: Store;
  readonly #changed: Changed;
  readonly #lost: () => void;
  /** By directory. */
  readonly #watchers = new Map<string, FSWatcher>();

  /** Of one VM alone, or of all. Throws what the system says when it cannot be watched. */
  constructor(store: Store, vm: string | undefined, changed: Changed, lost: () => void) {
    this.#store = store;
    this.#changed = changed;
    this.#lost = lost;
    try {
      if (vm !== undefined) {
        this.#watchVm(vm);
        return;
      }
      this.#watch(store.vmsDirectory(), (name) => {
        changed('/vms', name);
        if (name !== undefined && isName(name)) this.#watchVm(name);
      });
      for (const name of readdirSync(store.vmsDirectory())) if (isName(name)) this.#watchVm(name);
    } catch (error) {
      this.close();
      throw error;
    }
  }

  close(): void {
    for (const watcher of this.#watchers.values()) watcher.close();
    this.#watchers.clear();
  }

  /** Anew: under the name there may be another VM than before, or none. */
  #watchVm(vm: string): void {
    const directory = this.#store.vmDirectory(vm);
    this.#watch(directory, (name) => {
      this.#changed(`/vms/${vm}`, name);
      if (name === basename(this.#store.checkpointsDirectory(vm))) this.#watchCheckpoints(vm);
    });
    this.#watchCheckpoints(vm);
  }

  #watchCheckpoints(vm: string): void {
    this.#watch(this.#store.checkpointsDirectory(vm), (name) =>
      this.#changed(`/vms/${vm}/checkpoints`, name),
    );
  }

  /** Hears of names that come and go in a directory, if it is there; what is in files is nobody's concern. */
  #watch(directory: string, named: (name: string | undefined) => void): void {
    this.#watchers.get(directory)?.close();
    this.#watchers.delete(directory);
    const heard = (type: string, name: string | null) => {
      if (type === 'rename') this.#guard(() => named(name ?? undefined));
    };
    try {
      const watcher = watch(directory, { persistent: false }, heard);
      watcher.on('error', () => this.#giveUp());
      this.#watchers.set(directory, watcher);
    } catch (error) {
      if (errnoOf(error) !== 'ENOENT') throw error;
    }
  }

  #guard(body: () => void): void {
    try {
      body();
    } catch {
      this.#giveUp();
    }
  }

  #giveUp(): void {
    this.close();
    this.#lost();
  }
}
