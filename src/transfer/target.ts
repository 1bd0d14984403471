/** Where checkpoints are sent to and recovered from: a store in a directory, or one at the far end of ssh. */
import type { ListedCheckpoint } from './messages.js';
import type { Parcel } from './parcel.js';

export interface TransferHooks {
  /** Bytes of the checkpoint that are there or have been sent, and all it has. */
  onProgress?: (doneBytes: number, totalBytes: number) => void;
  signal?: AbortSignal | undefined;
}

/** What sending a checkpoint took. */
export interface Sent {
  /** Present: the target had it already. */
  state: 'sent' | 'present';
  totalBytes: number;
  /** Of its files, without what the target had of earlier checkpoints or attempts, and what of it was zeros. */
  sentBytes: number;
  zeroBytes: number;
  /** What the target had. */
  presentBytes: number;
  totalMs: number;
}

export interface TargetInfo {
  program: string;
  store: string;
  freeBytes: number;
}

export type Judge = (parcel: Parcel, wanted: readonly { index: number }[]) => void;

export interface Target extends AsyncDisposable {
  readonly info: TargetInfo;
  /** The checkpoints of one VM or of all. */
  list(vm?: string): Promise<ListedCheckpoint[]>;
  /**
   * Sends a checkpoint, as far as the target does not have it. Its refusals are thrown, and after them it can still be
   * used; after any other failure it cannot. `judge` may throw at what the target wants, before any of it is sent.
   */
  send(parcel: Parcel, hooks?: TransferHooks, judge?: Judge): Promise<Sent>;
  /** Removes a checkpoint. NOT_FOUND unless that name has that id, BUSY, UNSUPPORTED where nothing is removed. */
  remove(vm: string, name: string, id: string): Promise<void>;
  /**
   * Removes what has come of checkpoints of a VM that are not published, and the VM if it has nothing else: after a
   * transfer that is not to be gone on with. BUSY while another one is under way.
   */
  forget(vm: string): Promise<void>;
}
