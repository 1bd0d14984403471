/**
 * A source of bytes as a file of its own: RAM of a checkpoint, flat.
 *
 * The file has holes where the source has zeros. It is written under a temporary name beside its own and gets
 * that when it is whole and durable; on any failure, and when it is cancelled, nothing is left.
 */
import { randomBytes } from 'node:crypto';
import { link, open, rename, rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import { CkptError, errnoOf, systemError } from '../errors.js';
import type { ByteSource } from '../native.js';
import { pathExists, syncPath } from './files.js';

const pieceBytes = 4 << 20;
/** What is left out where it is all zeros: a block of most filesystems, or some of them. */
const holeBytes = 64 << 10;
const zeros = Buffer.alloc(holeBytes);

export interface ExportOptions {
  onProgress?: (doneBytes: number, totalBytes: number) => void;
  signal?: AbortSignal | undefined;
}

/** Takes the bytes at a position; they are good until it resolves. */
type Sink = (bytes: Uint8Array, position: number) => Promise<void>;

/** Reads all of `source`, in order, one piece after the other. DAMAGED, IO, CANCELLED. */
export async function readThrough(
  source: ByteSource,
  sink: Sink,
  { onProgress, signal }: ExportOptions = {},
): Promise<void> {
  const buffer = Buffer.allocUnsafe(pieceBytes);
  for (let position = 0; position < source.bytes;) {
    if (signal?.aborted) throw new CkptError('CANCELLED', 'the export was cancelled');
    const length = await source.read(buffer, position);
    if (length === 0) throw new CkptError('IO', 'the source is shorter than it says; verify it');
    await sink(buffer.subarray(0, length), position);
    position += length;
    onProgress?.(position, source.bytes);
  }
}

/** Writes a source to a new file, or with `replace` in the place of another one. EXISTS without. */
export async function exportFile(
  source: ByteSource,
  path: string,
  options: ExportOptions & { replace?: boolean } = {},
): Promise<void> {
  const replace = options.replace === true;
  if (!replace && (await pathExists(path))) throw taken(path);
  const temporary = `${path}.new-${randomBytes(4).toString('hex')}`;
  try {
    const file = await open(temporary, 'wx', 0o600);
    try {
      await readThrough(
        source,
        async (bytes, start) => {
          for (let at = 0; at < bytes.length; at += holeBytes) {
            const part = bytes.subarray(at, at + holeBytes);
            if (zeros.compare(part, 0, part.length, 0, part.length) === 0) continue;
            for (let done = 0; done < part.length;) {
              const position = start + at + done;
              done += (await file.write(part, done, part.length - done, position)).bytesWritten;
            }
          }
        },
        options,
      );
      await file.truncate(source.bytes);
      await file.sync();
    } finally {
      await file.close();
    }
    await publish(temporary, path, replace);
    await syncPath(dirname(path));
  } catch (error) {
    throw systemError(error, `cannot write ${path}`);
  } finally {
    await rm(temporary, { force: true });
  }
}

/** Gives a file its name: a link refuses one that is taken, where there are links. */
async function publish(temporary: string, path: string, replace: boolean): Promise<void> {
  if (!replace) {
    try {
      return await link(temporary, path);
    } catch (error) {
      if (errnoOf(error) === 'EEXIST') throw taken(path);
      if (!['EPERM', 'ENOTSUP', 'EOPNOTSUPP'].includes(errnoOf(error) ?? '')) throw error;
      if (await pathExists(path)) throw taken(path);
    }
  }
  await rename(temporary, path);
}

function taken(path: string): CkptError {
  return new CkptError('EXISTS', `${path} exists already; choose another file or give --force`, {
    path,
  });
}
