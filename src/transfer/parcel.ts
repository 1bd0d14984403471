/**
 * A checkpoint as it is sent: whole by itself.
 *
 * The parents of its disks go along, wherever they are: one that lies outside of the checkpoint becomes the file
 * disks/<id>/00000000.raw of it, as with --copy-disks. Hence the manifest that is sent may differ from the one in
 * the store; id, name and time are the same.
 */
import { isAbsolute, join } from 'node:path';
import { openCheckpoint, steadily } from '../checkpoint/checkpoints.js';
import { ownParentName } from '../checkpoint/disk_names.js';
import { attempt } from '../checkpoint/files.js';
import {
  draftOf,
  type Manifest,
  type ManifestDraft,
  type ManifestFile,
  writeManifest,
} from '../checkpoint/manifest.js';
import { parentOf } from '../checkpoint/parent.js';
import { CkptError } from '../errors.js';
import { type FileIdentity, fileIdentity } from '../native.js';
import { contentId, openSource, openStored } from './content.js';
import type { Offer } from './messages.js';

/** What a parent outside of the checkpoint must be. */
interface Outside {
  disk: string;
  identity: FileIdentity;
}

/** A file of a parcel and where it is now. */
export interface Packed {
  file: ManifestFile;
  source: string;
  /** Of the parent of a disk that lies outside of the checkpoint: a device, maybe, or a symbolic link. */
  outside?: Outside;
  id: string;
  allocatedBytes: number;
}

export interface Parcel {
  manifest: Manifest;
  /** The text of the manifest. */
  text: string;
  files: readonly Packed[];
  totalBytes: number;
}

/**
 * Packs the checkpoint in `directory`, with `vm` as one of a VM of that name; nothing is read but what opening it
 * reads. DAMAGED, NOT_FOUND.
 */
export function pack(directory: string, vm?: string): Promise<Parcel> {
  return steadily(directory, () => packDirectory(directory, vm));
}

async function packDirectory(directory: string, vm: string | undefined): Promise<Parcel> {
  const { manifest: stored } = await openCheckpoint(directory);
  const draft = vm === undefined ? draftOf(stored) : draftAs(stored, vm);
  const parents = new Map<string, { source: string; outside: Outside }>();
  const files: ManifestFile[] = [...stored.files];
  const disks = draft.disks.map((disk) => {
    if (!isAbsolute(disk.parent)) return disk;
    const source = parentOf(directory, disk);
    const outside = { disk: disk.id, identity: disk.parentIdentity };
    refuseChanged(source, outside);
    const path = `disks/${disk.id}/${ownParentName(0)}`;
    parents.set(path, { source, outside });
    files.push({ path, bytes: disk.parentIdentity.bytes });
    return { ...disk, parent: path };
  });
  // The order in which publishing lists them.
  files.sort(({ path: a }, { path: b }) => (a < b ? -1 : 1));
  const { manifest, text } = writeManifest({ ...draft, disks }, files);
  const packed: Packed[] = [];
  for (const file of manifest.files) {
    const where = parents.get(file.path) ?? { source: join(directory, file.path) };
    packed.push({ file, ...where, ...(await lookAt(manifest, file, where)) });
  }
  const totalBytes = files.reduce((sum, { bytes }) => sum + bytes, 0);
  return { manifest, text, files: packed, totalBytes };
}

/** The checkpoint as one of a VM of another name, which goes on from it and is in no group. */
function draftAs(stored: Manifest, vm: string): ManifestDraft {
  const draft = draftOf(stored);
  delete draft.group;
  return { ...draft, vm, config: { ...draft.config, name: vm } };
}

/** What tells the contents of a file, and what it takes on disk. */
async function lookAt(
  manifest: Manifest,
  file: ManifestFile,
  where: Pick<Packed, 'source' | 'outside'>,
): Promise<{ id: string; allocatedBytes: number }> {
  const opened = await openPacked(where);
  try {
    const stats = await opened.stat();
    return {
      id: await contentId(manifest, file, opened),
      // A device does not say.
      allocatedBytes: stats.isFile() ? stats.blocks * 512 : file.bytes,
    };
  } finally {
    await opened.close();
  }
}

export function openPacked({ source, outside }: Pick<Packed, 'source' | 'outside'>) {
  return attempt(`cannot read ${source}`, () => (outside ? openSource : openStored)(source));
}

/** The parent must be what it was when the checkpoint was taken: its redo logs hold only differences. */
export function refuseChanged(path: string, { disk, identity: then }: Outside): void {
  const now = fileIdentity(path);
  if (now.bytes === then.bytes && now.mtimeNs === then.mtimeNs) return;
  throw new CkptError(
    'DAMAGED',
    `${path}, the parent of disk ${disk}, has changed since the checkpoint; put it back as it was`,
    { file: path, disk },
  );
}

/** What is offered of a parcel. */
export function offerOf({ text, files }: Parcel): Offer {
  return {
    type: 'offer',
    manifest: text,
    files: files.map(({ id, allocatedBytes }) => ({ id, allocatedBytes })),
  };
}
