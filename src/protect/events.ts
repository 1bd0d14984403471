/** What protection tells as it happens. */
import type { ErrorCode } from '../errors.js';
import type { ProtectionStep } from '../vmm/protection.js';

export type ProtectEvent = { vm: string } & (
  | { event: 'taken'; name: string; id: string; pauseUs: number; storedBytes?: number }
  | { event: 'sending'; name: string; id: string }
  | {
      event: 'shipped';
      name: string;
      id: string;
      sentBytes: number;
      presentBytes: number;
      totalBytes: number;
      totalMs: number;
      /** Age of the newest checkpoint that the destination holds, now. */
      rpoMs: number;
    }
  /** Intervals at whose end there was no checkpoint, or the destination lacked the one before; `missed` is of all. */
  | { event: 'missed'; why: string; intervals: number; missed: number }
  /** It is tried again; told once until the reason changes. */
  | { event: 'failed'; step: ProtectionStep; code: ErrorCode; message: string }
  /** What had failed works again. */
  | { event: 'works'; step: ProtectionStep }
  | { event: 'removed'; name: string; from: 'store' | 'destination' }
  | { event: 'committed'; disk: string; logs: number }
);

/** An event without the VM that it is of. */
export type VmEvent = ProtectEvent extends infer Event
  ? Event extends { vm: string }
    ? Omit<Event, 'vm'>
    : never
  : never;
