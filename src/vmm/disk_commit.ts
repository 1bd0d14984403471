/**
 * Committing the redo logs of a VM's disk into its parent (requirement A6), and discarding them (D3).
 *
 * What a checkpoint or another VM shows never changes: a parent that one of them refers to is copied, by a
 * reflink where the filesystem has them, and the copy becomes the parent of this disk alone. Otherwise the
 * parent itself is written. The logs hide it until all is there; base.json says that a commit has begun, so
 * one that is broken off at any point leaves a disk that is as it was, and can be committed again.
 *
 * A VM that runs writes to a fresh log meanwhile. Owner: the process that holds the VM's lock.
 */
import { rm, statfs } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import createDebug from 'debug';
import { copyDisk, reflinkDisk } from '../checkpoint/disk_copy.js';
import { logNumber, ownParentName } from '../checkpoint/disk_names.js';
import { syncPath } from '../checkpoint/files.js';
import { CkptError } from '../errors.js';
import {
  commitDisk as commitStopped,
  type CommitRequest,
  type CommittedParent,
  fileIdentity,
  type TaskHooks,
} from '../native.js';
import type { CommitOptions, CommitSummary, DiskConfig } from '../types.js';
import { cleanBase, type DiskBase, layersOf, nextRedo, readBase, writeBase } from './disk_base.js';
import type { DiskPlace } from './disk_place.js';
import { usersOf } from './disk_users.js';

const debug = createDebug('ckptfs:disk');

/** Commits all logs that the disk has now. BUSY, USAGE (a copy is needed), CANCELLED, NO_SPACE, DAMAGED, IO. */
export async function commitDisk(
  place: DiskPlace,
  options: CommitOptions = {},
  hooks: TaskHooks = {},
): Promise<CommitSummary> {
  const { store, vm, disk, machine } = place;
  const directory = store.diskDirectory(vm, disk.id);
  await cleanBase(directory, disk.path);
  const base = await readBase(directory, disk.path);
  const layers = await layersOf(directory, disk.path);
  const newest = layers.redo.at(-1);
  const summary = { vm, disk: disk.id, parent: layers.parent, logs: layers.redo.length };
  if (newest === undefined) return { ...summary, copied: false };
  const users = await usersOf(store, layers.parent, vm, disk.id);
  const through = logNumber(newest.path);
  const into =
    users.length === 0
      ? undefined
      : await copyParent(
          layers.parent,
          join(directory, ownParentName(through)),
          users,
          options,
          hooks,
        );
  try {
    if (machine) await machine.freezeDisk(disk.id, await nextRedo(directory));
    const again = base.committing === through;
    if (into === undefined) await writeBase(directory, begun(base, through));
    const request = {
      logs: layers.redo.length,
      again,
      ...(into === undefined ? {} : { into }),
    } satisfies CommitRequest;
    const committed = machine
      ? await machine.commitDisk(disk.id, request, hooks)
      : await commitStopped(layers, request, hooks);
    await ended(directory, disk, committed, through + 1);
    debug('%s:%s: committed %d logs into %s', vm, disk.id, request.logs, committed.parent);
    return { ...summary, parent: committed.parent, copied: into !== undefined };
  } catch (error) {
    if (into !== undefined) await rm(into, { force: true });
    throw error;
  }
}

/** From here on the parent is not what it was, and the logs are needed until the commit has ended. */
function begun({ parent, committed, firstLog }: DiskBase, committing: number): DiskBase {
  return { parent, ...(committed === undefined ? {} : { committed }), firstLog, committing };
}

async function ended(
  directory: string,
  disk: DiskConfig,
  committed: CommittedParent,
  firstLog: number,
): Promise<void> {
  await writeBase(directory, { ...committed, firstLog });
  await cleanBase(directory, disk.path);
}

/** Makes a copy of a parent that `users` refer to. USAGE where that would take space and was not asked for. */
async function copyParent(
  parent: string,
  copy: string,
  users: string[],
  options: CommitOptions,
  hooks: TaskHooks,
): Promise<string> {
  if (await reflinkDisk(parent, copy)) {
    await syncPath(copy);
    return copy;
  }
  const { bytes } = fileIdentity(parent);
  if (options.copy !== true) {
    const { bavail, bsize } = await statfs(dirname(copy));
    const others = users.length > 1 ? ` and ${users.length - 1} more` : '';
    throw new CkptError(
      'USAGE',
      `${parent} is what ${users[0] ?? ''}${others} stand on, so it does not change; a copy of it can be made the parent, ` +
        `which takes up to ${bytes} bytes of ${bavail * bsize} that are free: give --copy, or remove them first`,
      { parent, users, bytes },
    );
  }
  await copyDisk(parent, copy, hooks);
  return copy;
}

/** Throws away what was written since the parent: all logs of a VM's disk that does not run. */
export async function discardDisk({ store, vm, disk }: DiskPlace): Promise<number> {
  const directory = store.diskDirectory(vm, disk.id);
  const base = await readBase(directory, disk.path);
  if (base.committing !== undefined) {
    throw new CkptError(
      'USAGE',
      `a commit of ${vm}:${disk.id} has begun, so its parent alone is no whole disk; commit it first`,
    );
  }
  const { redo } = await layersOf(directory, disk.path);
  const { parent } = base;
  const last = redo.at(-1);
  if (last === undefined) return 0;
  await writeBase(directory, { parent, firstLog: logNumber(last.path) + 1 });
  await cleanBase(directory, disk.path);
  return redo.length;
}
