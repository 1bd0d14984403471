/** A VM that is shipped elsewhere while its guest writes to 30 MiB a second of its 512 MiB, most of which nothing compresses. */
import { join } from 'node:path';
import type { Store } from '../src/checkpoint/store.js';
import type { Vm } from '../src/vmm/vm.js';
import { bareConfig, boot, temporaryStore } from '../test/support/guests.js';
import { mib } from './guest.js';
import { makeRandomFile } from './random_file.js';

/** Each to another memory block of 32 KiB, nearly always. */
const writesPerSecond = 960;

export interface RandomWriter {
  vm: Vm;
  store: Store;
  /** A directory of its own, with the store in it. */
  directory: string;
}

/** Boots it, as VM `web`, and lets it go with everything when the work ends; a `quick` one has 64 MiB. */
export async function withRandomWriter<T>(
  quick: boolean,
  work: (writer: RandomWriter) => Promise<T>,
): Promise<T> {
  const { store, remove } = await temporaryStore();
  try {
    const directory = join(store.root, '..');
    const initrd = join(directory, 'initrd');
    await makeRandomFile(initrd, (quick ? 24 : 384) * mib);
    const memoryBytes = (quick ? 64 : 512) * mib;
    const options = { name: 'web', initrd, memoryBytes };
    const config = bareConfig('random-writer', `rate=${writesPerSecond}`, options);
    const { vm } = await boot(store, config);
    try {
      await vm.serve();
      return await work({ vm, store, directory });
    } finally {
      await vm.close();
    }
  } finally {
    await remove();
  }
}
