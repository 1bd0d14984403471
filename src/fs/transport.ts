/**
 * What carries the tree to the kernel. One interface for every transport, and one test suite
 * (test/fs-suite.ts). A transport is loaded when a mount asks for it.
 */
import { CkptError } from '../errors.js';
import type { Tree } from './tree.js';

/** The one that is taken by default comes first, where it can be had. */
export const transportNames = ['libfuse3', 'fuse-native'] as const;
export type TransportName = (typeof transportNames)[number];

export interface TransportOptions {
  /** Other users than the one who mounts may look in. */
  allowOther: boolean;
  /** A request that takes longer is answered with ETIMEDOUT. */
  requestLimitMs: number;
  /** Told one line for each failure that a person has to look into. */
  onError: (line: string) => void;
}

/** A tree that the kernel has mounted. */
export interface Session {
  /** Gives back what the session holds; called when the kernel's mount is gone. */
  end(): Promise<void>;
}

export interface Transport {
  readonly name: TransportName;
  /**
   * Mounts the tree on a directory and resolves when the kernel has connected. On failure nothing is
   * mounted. The process must not look at the directory from then on.
   */
  attach(tree: Tree, directory: string, options: TransportOptions): Promise<Session>;
}

/** Loads a transport, by default the first that is there; UNSUPPORTED says what is missing. */
export async function loadTransport(name?: TransportName): Promise<Transport> {
  if (name !== undefined) return load(name);
  const missing: CkptError[] = [];
  for (const candidate of transportNames) {
    try {
      return await load(candidate);
    } catch (error) {
      if (!(error instanceof CkptError) || error.code !== 'UNSUPPORTED') throw error;
      missing.push(error);
    }
  }
  throw new CkptError('UNSUPPORTED', missing.map(({ message }) => message).join('; or else '));
}

async function load(name: TransportName): Promise<Transport> {
  if (name === 'libfuse3') return (await import('./libfuse3.js')).loadLibfuse3();
  return (await import('./fuse_native.js')).loadFuseNative();
}
