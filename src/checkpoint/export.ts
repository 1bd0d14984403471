/**
 * A source of bytes as a file of its own: RAM of a checkpoint, or a disk, flat.
 *
 * The file has holes where the source has zeros. It is made beside its place (new_file.ts) and gets its name when
 * it is whole and durable. On any failure, and when it is cancelled, nothing is left; or, if it is resumable, what
 * the next attempt goes on with.
 */
import { type FileHandle, open } from 'node:fs/promises';
import { dirname } from 'node:path';
import { CkptError, errnoOf, systemError, toCkptError } from '../errors.js';
import { type ByteSource, pageBuffer } from '../native.js';
import { pathExists, syncPath } from './files.js';
import { type NewFile, PartialFile, taken, TemporaryFile } from './new_file.js';

const pieceBytes = 4 << 20;
/** What is left out where it is all zeros: a block of most filesystems, or some of them. */
const holeBytes = 64 << 10;
const zeros = Buffer.alloc(holeBytes);
/** How much is copied between two moments when it is made safe. */
const keepBytes = 32 << 20;

export interface ExportOptions {
  onProgress?: (doneBytes: number, totalBytes: number) => void;
  signal?: AbortSignal | undefined;
}

/** Takes the bytes at a position; they are good until it resolves. */
type Sink = (bytes: Uint8Array, position: number) => Promise<void>;

/** Reads `source` from a position to its end, in order, one piece after the other. DAMAGED, IO, CANCELLED. */
export async function readThrough(
  source: ByteSource,
  sink: Sink,
  { onProgress, signal }: ExportOptions = {},
  from = 0,
): Promise<void> {
  const buffer = pageBuffer(pieceBytes);
  for (let position = from; position < source.bytes;) {
    if (signal?.aborted) throw new CkptError('CANCELLED', 'the export was cancelled');
    const length = await source.read(buffer, position);
    if (length === 0) throw new CkptError('IO', 'the source is shorter than it says; verify it');
    await sink(buffer.subarray(0, length), position);
    position += length;
    onProgress?.(position, source.bytes);
  }
}

/** Writes at a position of a file that has zeros there, which are left out. */
async function writeSparse(file: FileHandle, bytes: Uint8Array, start: number): Promise<void> {
  for (let at = 0; at < bytes.length; at += holeBytes) {
    const part = bytes.subarray(at, at + holeBytes);
    if (zeros.compare(part, 0, part.length, 0, part.length) === 0) continue;
    for (let done = 0; done < part.length;) {
      const position = start + at + done;
      done += (await file.write(part, done, part.length - done, position)).bytesWritten;
    }
  }
}

export interface ExportFileOptions extends ExportOptions {
  /** In the place of a file that is there. */
  replace?: boolean;
  /**
   * Goes on with what an earlier attempt has left of the same source, in PATH.partial, and leaves it when this one
   * fails. `source` is what tells the contents of the source from any other; `restart` begins anew.
   */
  resume?: { source: string; restart?: boolean };
}

/** Writes a source to a new file; resolves with how many bytes were there from before. EXISTS, BUSY. */
export async function exportFile(
  source: ByteSource,
  path: string,
  options: ExportFileOptions = {},
): Promise<number> {
  const { resume, replace = false } = options;
  if (!replace && (await pathExists(path))) throw taken(path);
  try {
    const made = resume
      ? await PartialFile.open(
          path,
          { source: resume.source, bytes: source.bytes },
          resume.restart === true,
        )
      : await TemporaryFile.create(path, source.bytes);
    await fill(made, source, path, options);
    return made.doneBytes;
  } catch (error) {
    throw systemError(error, `cannot write ${path}`);
  }
}

async function fill(
  made: NewFile,
  source: ByteSource,
  path: string,
  options: ExportFileOptions,
): Promise<void> {
  let done = made.doneBytes;
  let kept = done;
  const sink: Sink = async (bytes, position) => {
    await writeSparse(made.file, bytes, position);
    done = position + bytes.length;
    if (done - kept < keepBytes) return;
    await made.keep(done);
    kept = done;
  };
  try {
    await readThrough(source, sink, options, done);
    await made.publish(options.replace === true);
  } catch (error) {
    const keptBytes = await made.abandon(done);
    if (keptBytes === 0) throw error;
    const { code, message, data } = toCkptError(systemError(error, `cannot write ${path}`));
    const partial = PartialFile.directoryOf(path);
    throw new CkptError(
      code,
      `${message}; what has been copied is in ${partial}: the same command goes on with it, --restart begins anew`,
      { ...data, partial, keptBytes },
      { cause: error },
    );
  }
}

/** Makes a file of `bytes` zeros, all of it a hole. EXISTS. */
export async function createEmptyFile(path: string, bytes: number): Promise<void> {
  try {
    const file = await open(path, 'wx', 0o600);
    try {
      await file.truncate(bytes);
      await file.sync();
    } finally {
      await file.close();
    }
    await syncPath(dirname(path));
  } catch (error) {
    if (errnoOf(error) === 'EEXIST') throw taken(path);
    throw systemError(error, `cannot make ${path}`);
  }
}
