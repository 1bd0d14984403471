/**
 * What tells the contents of a checkpoint's file from any other: an id of 128 bits, the same wherever a copy of the
 * file lies, found without reading all of it.
 *
 *   device-state.json, memory.map   the SHA-256 that the manifest has of them, its first half
 *   segments, redo logs             of size and both ends: the first has a random id in its header, both have a seal
 *                                   with checksums, and neither ever changes
 *   parents of disks                of size, both ends and the modification time in ns, by which a checkpoint itself
 *                                   tells whether its parent is still the same
 *
 * A file is taken for the one that is offered only within one VM.
 */
import { createHash } from 'node:crypto';
import { type FileHandle, open } from 'node:fs/promises';
import { constants } from 'node:fs';
import type { Manifest, ManifestFile } from '../checkpoint/manifest.js';

const endBytes = 4096;
const idDigits = 32;

/** Opens a file of a checkpoint for reading; never through a symbolic link, and a FIFO blocks nobody. */
export function openStored(path: string): Promise<FileHandle> {
  return open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
}

/** Opens the parent of a disk, which may be a device, or be named by a symbolic link. */
export function openSource(path: string): Promise<FileHandle> {
  return open(path, constants.O_RDONLY | constants.O_NONBLOCK);
}

/** The modification time that `manifest` has of one of its files: of parents alone. */
export function parentTime(manifest: Pick<Manifest, 'disks'>, path: string): string | undefined {
  return manifest.disks.find(({ parent }) => parent === path)?.parentIdentity.mtimeNs;
}

/** The id of a file of `manifest` that is open. */
export async function contentId(
  manifest: Pick<Manifest, 'disks'>,
  { path, bytes, sha256 }: ManifestFile,
  file: FileHandle,
): Promise<string> {
  if (sha256 !== undefined) return sha256.slice(0, idDigits);
  const hash = createHash('sha256');
  hash.update(`${bytes} ${parentTime(manifest, path) ?? ''}\n`);
  const end = Buffer.alloc(endBytes);
  for (const position of [0, Math.max(0, bytes - endBytes)]) {
    const { bytesRead } = await file.read(end, 0, endBytes, position);
    hash.update(end.subarray(0, bytesRead));
  }
  return hash.digest('hex').slice(0, idDigits);
}
