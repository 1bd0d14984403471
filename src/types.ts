/**
 * The nouns that the VM layer shares with the checkpoint store and the commands: plain values and the
 * narrow interfaces of a VM and of a client of one. No code: importing it costs nothing.
 */
import type { Codec, Geometry, GuestExit, RestoreProgress, SaveProgress } from './native.js';

/** One virtual disk as a user asks for it. */
export interface DiskConfig {
  id: string;
  /** The parent: a raw file. */
  path: string;
  mode: 'persistent' | 'nonpersistent';
  readonly: boolean;
}

/** What a VM is made of: validated by src/vmm/config.ts, stored as config.json and in every manifest. */
export interface VmConfig {
  name: string;
  kernel: string;
  initrd?: string | undefined;
  append: string;
  memoryBytes: number;
  cpus: number;
  disks: DiskConfig[];
  trace: 'mprotect';
  geometry: Geometry;
}

/** A configuration file or command-line flags, not yet validated and without the defaults. */
export type VmConfigInput = Partial<Omit<VmConfig, 'disks'>> & {
  disks?: Partial<DiskConfig>[];
};

/** What `info` and `list` show; also written to status.json. Optional keys are absent when not applicable. */
export interface VmStatus {
  vm: string;
  state: 'starting' | 'running' | 'paused' | 'failed' | 'ended';
  pid: number;
  startedAt: string;
  memoryBytes: number;
  cpus: number;
  instructions: number;
  /** Guest time in ticks of 100 ns, decimal. */
  guestTicks: string;
  faults: number;
  mappings: number;
  error?: string;
  exit?: GuestExit;
  /** The save under way. */
  save?: SaveProgress & { id: string; name: string };
  /** The restore that this VM came from, done or not. */
  restore?: RestoreProgress & { id: string };
  mount?: string;
}

export interface CheckpointRequest {
  /** By default the time of the checkpoint. */
  name?: string;
  codec: Codec;
  /** False: answer once the guest runs again; the save goes on in the VM process. */
  wait: boolean;
}

/** The result of `checkpoint`; with `wait: false` only what is known after the pause. */
export interface CheckpointSummary {
  vm: string;
  id: string;
  name: string;
  state: 'saving' | 'published';
  pauseUs: number;
  totalMs?: number;
  memoryBytes: number;
  storedBytes?: number;
  blocks?: { vcpu: number; background: number; zero: number; parent: number };
  faults?: number;
}

/** The console of a running VM: bytes from the guest, and bytes to it. */
export interface ConsoleStream {
  readonly readable: AsyncIterable<Uint8Array>;
  write(bytes: Uint8Array): void;
  /** Detaches; the guest goes on. */
  end(): void;
}

/** What a command may ask of a running VM (src/vmm/client.ts, the control socket). */
export interface VmControl {
  status(): Promise<VmStatus>;
  pause(): Promise<void>;
  resume(): Promise<void>;
  /** Ends the VM process and resolves when it has released the VM. */
  stop(): Promise<void>;
  checkpoint(
    request: CheckpointRequest,
    onProgress?: (progress: SaveProgress) => void,
    signal?: AbortSignal,
  ): Promise<CheckpointSummary>;
  console(): Promise<ConsoleStream>;
}

/** A VM inside its own process (src/vmm/vm.ts). Holds the VM's lock until close(). */
export interface VmProcess {
  readonly name: string;
  on(event: 'console', listener: (data: Buffer) => void): this;
  on(event: 'exit', listener: (exit: GuestExit) => void): this;
  on(event: 'error', listener: (error: Error) => void): this;
  /** Runs the guest. */
  start(): Promise<void>;
  /** Serves the control socket. */
  serve(): Promise<void>;
  consoleInput(data: Uint8Array): void;
  status(): VmStatus;
  restoreProgress(): RestoreProgress | undefined;
  /** Ends the VM as if its plug were pulled; emits `exit`. */
  stop(): Promise<void>;
  /** Where this process serves its mount, for status. */
  mountpoint: string | undefined;
  /** Stops the guest, closes the disks and releases the lock. May be called twice. */
  close(): Promise<void>;
}
