/**
 * Who depends on a file as the parent of a disk: what is written to it would change their disks.
 *
 * Known are the checkpoints and VMs of this store. Files are told apart by device and inode, so links count as
 * what they lead to.
 */
import { type Stats } from 'node:fs';
import { stat } from 'node:fs/promises';
import { listAllCheckpoints } from '../checkpoint/checkpoints.js';
import { parentOf } from '../checkpoint/parent.js';
import type { Store } from '../checkpoint/store.js';
import { storedConfig } from './config.js';
import { layersOf } from './disk_base.js';

function fileAt(path: string): Promise<Stats | undefined> {
  return stat(path).catch(() => undefined);
}

/** All but disk `id` of `vm` itself that refer to `file`, by their names. */
export async function usersOf(
  store: Store,
  file: string,
  vm: string,
  id: string,
): Promise<string[]> {
  const wanted = await fileAt(file);
  const same = async (path: string) => {
    const found = await fileAt(path);
    return found !== undefined && found.ino === wanted?.ino && found.dev === wanted.dev;
  };
  const users: string[] = [];
  for (const entry of await listAllCheckpoints(store)) {
    for (const disk of entry.manifest?.disks ?? []) {
      if (await same(parentOf(entry.directory, disk))) users.push(`${entry.vm}@${entry.name}`);
    }
  }
  for (const other of await store.listVms()) {
    const config = await storedConfig(store, other).catch(() => undefined);
    for (const disk of config?.disks ?? []) {
      if (other === vm && disk.id === id) continue;
      const { parent } = await layersOf(store.diskDirectory(other, disk.id), disk.path);
      if (await same(parent)) users.push(`VM ${other}`);
    }
  }
  return users;
}
