/** A FUSE session of the addon (native/fuse): what it asks, and what it is answered. */
import type { NativeBytes } from './values.js';

interface QuestionBase {
  /** For the answer. */
  id: number;
  /** In the tree; absolute. */
  path: string;
}

/** Asked about the tree, or about an open file whose bytes are not the addon's to read. */
export type FuseQuestion = QuestionBase &
  (
    | { kind: 'stat' | 'list' | 'target' | 'capacity' | 'xattrs' | 'open' | 'openWritable' }
    /** The last one is always refused. */
    | { kind: 'makeDirectory' | 'removeDirectory' | 'rename' }
    | { kind: 'xattr'; name: string }
    | { kind: 'truncate'; bytes: number }
    | { kind: 'read'; handle: number; position: number; bytes: number }
    | { kind: 'write'; handle: number; position: number; data?: Uint8Array }
    | { kind: 'sync'; handle: number }
    /** `bytes` is 1 if somebody waits for wake(). */
    | { kind: 'poll'; handle: number; bytes: number }
  );

export type FuseEvent =
  | FuseQuestion
  /** Nothing is asked about the handle any more. */
  | { kind: 'released'; handle: number }
  /** Somebody has to look into this. */
  | { kind: 'failed'; path: string; message: string; errno: number };

export interface FuseSetup {
  /** Options of the mount. */
  options: string[];
  /** A request that takes longer is answered with ETIMEDOUT. */
  requestLimitMs: number;
  /** Errno numbers by the addon's codes. */
  errnos: Record<string, number>;
}

export interface RawFuseSession {
  mount(directory: string): Promise<void>;
  answer(id: number, errno: number, value?: string | Uint8Array, bytes?: NativeBytes): boolean;
  changed(directory: string, name: string): void;
  wake(handle: number): void;
  end(): Promise<void>;
}

export type RawFuseSessionClass = new (
  setup: string,
  onEvent: (event: FuseEvent) => void,
) => RawFuseSession;

/** Texts of answers: to `stat`, `truncate` and `makeDirectory`, to `list` (an array), to `capacity`, to `open`. */
export interface StatAnswer {
  mode: number;
  inode: number;
  bytes: number;
  blocks: number;
  nlink: number;
  uid: number;
  gid: number;
  timeMs: number;
  key: string;
  /** How long the kernel may keep them, and the name. */
  attributesSeconds: number;
  entrySeconds: number;
}

export interface ListAnswer {
  name: string;
  mode: number;
  inode: number;
}

export interface CapacityAnswer {
  blockBytes: number;
  blocks: number;
  free: number;
  available: number;
  files: number;
  filesFree: number;
  maxNameBytes: number;
}

export interface OpenAnswer {
  handle: number;
  bytes: number;
  key: string;
  caching: 'none' | 'checked' | 'kept';
  version: string;
  /** Whether questions of kind poll are answered. */
  polls: boolean;
}
