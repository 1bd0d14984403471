/**
 * VMs to be backed up: small guests whose memory and disk have contents that change by a part that is known, and what
 * tells two copies of their checkpoints apart.
 */
import { randomBytes } from 'node:crypto';
import { lstat, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createHash } from 'node:crypto';
import { diskLayers, openCheckpoint } from '../../src/checkpoint/checkpoints.js';
import { draftOf, type Manifest, writeManifest } from '../../src/checkpoint/manifest.js';
import type { Store } from '../../src/checkpoint/store.js';
import { openDisk } from '../../src/native.js';
import type { Offer } from '../../src/transfer/messages.js';
import { offerOf, type Parcel } from '../../src/transfer/parcel.js';
import type { Vm } from '../../src/vmm/vm.js';
import { memoryHash, sourceHash } from './chains.js';
import { bareConfig, boot, until } from './guests.js';

const mib = 2 ** 20;

export interface Shipped {
  /** Bytes of memory that nobody writes. */
  stillMib?: number;
  /** Memory that the guest writes over and over. */
  busyMib?: number;
  diskMib?: number;
  name?: string;
}

/** A VM that runs, with memory of which most never changes, and a disk beside the store. */
export async function busyVm(
  store: Store,
  { stillMib = 12, busyMib = 1, diskMib = 4, name = 'web' }: Shipped = {},
): Promise<Vm> {
  const beside = (file: string): string => join(store.root, '..', `${name}-${file}`);
  await writeFile(beside('initrd'), randomBytes(stillMib * mib));
  await writeFile(beside('disk.img'), randomBytes(diskMib * mib));
  const { vm } = await boot(
    store,
    bareConfig('random-writer', `mib=${busyMib}`, {
      name,
      initrd: beside('initrd'),
      memoryBytes: (stillMib + busyMib + 16) * mib,
      disks: [{ id: 'vda', path: beside('disk.img') }],
    }),
  );
  await goesOn(vm);
  return vm;
}

/** Resolves when the guest has run a while longer. */
export async function goesOn(vm: Vm): Promise<void> {
  const { instructions } = vm.status();
  await until('instructions', () => vm.status().instructions > instructions + 5_000_000);
}

/** What a checkpoint holds: its memory, its disks, its device state. */
export async function contentsOf(directory: string): Promise<Record<string, string>> {
  const checkpoint = await openCheckpoint(directory);
  const contents: Record<string, string> = {
    id: checkpoint.manifest.id,
    memory: await memoryHash(directory),
    state: checkpoint.deviceState,
  };
  for (const { id } of checkpoint.manifest.disks) {
    contents[`disk ${id}`] = await sourceHash(await openDisk(diskLayers(checkpoint, id)));
  }
  return contents;
}

/** Every file and directory below `root`, with sizes and contents: what must be the same when nothing has changed. */
export async function pictureOf(root: string): Promise<Map<string, string>> {
  const picture = new Map<string, string>();
  for (const path of (await readdir(root, { recursive: true })).sort()) {
    const stats = await lstat(join(root, path));
    const contents = stats.isFile()
      ? createHash('sha256')
          .update(await readFile(join(root, path)))
          .digest('hex')
      : stats.mode.toString(8);
    picture.set(path, contents);
  }
  return picture;
}

/** The offer of a parcel whose manifest says something else. */
export function forged(parcel: Parcel, change: (manifest: Manifest) => void): Offer {
  const manifest = structuredClone(parcel.manifest);
  change(manifest);
  return { ...offerOf(parcel), manifest: writeManifest(draftOf(manifest), manifest.files).text };
}
