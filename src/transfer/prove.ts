/**
 * Proof that a checkpoint can be recovered: a VM goes on from it, in a store of its own that is gone afterwards,
 * until all of its memory has been read and checked and its console has shown what was asked for.
 *
 * It is isolated: its disks are copies or links under redo logs of its own, it serves no socket, and nothing that
 * it does is kept.
 */
import { setTimeout } from 'node:timers/promises';
import { diskLayers, openCheckpoint } from '../checkpoint/checkpoints.js';
import type { Store } from '../checkpoint/store.js';
import { CkptError, toCkptError } from '../errors.js';
import { openDisk } from '../native.js';
import { Vm } from '../vmm/vm.js';

export interface ProofOptions {
  /** What the console has to show. Without it, it is enough that the guest runs and all its memory is whole. */
  expect?: RegExp;
  /** Typed on the console first: a guest that waits says nothing by itself. */
  type?: string;
  timeoutMs?: number;
  signal?: AbortSignal | undefined;
}

export interface Proof {
  vm: string;
  name: string;
  ok: boolean;
  /** Why not. */
  why?: string;
  /** From the start of the restore on; null: not so far. */
  firstInstructionMs: number | null;
  completeMs: number | null;
  expectedMs: number | null;
  instructions: number;
}

const defaultTimeoutMs = 60_000;
const pollMs = 10;
/** How much of the console is searched. */
const maxConsoleChars = 1 << 20;
const tailChars = 200;

/** Recovers the checkpoint in `directory` as a VM of `scratch`, and ends it. Rejects only when cancelled. */
export async function prove(
  directory: string,
  of: { vm: string; name: string },
  scratch: Store,
  options: ProofOptions = {},
): Promise<Proof> {
  const proof: Proof = {
    ...{ ...of, ok: false, firstInstructionMs: null, completeMs: null, expectedMs: null },
    instructions: 0,
  };
  try {
    const checkpoint = await openCheckpoint(directory);
    for (const { id } of checkpoint.manifest.disks) {
      (await openDisk(diskLayers(checkpoint, id))).close();
    }
    await run(directory, scratch, options, proof);
    return { ...proof, ok: true };
  } catch (error) {
    const known = toCkptError(error);
    if (known.code === 'CANCELLED') throw known;
    return { ...proof, why: known.message };
  }
}

async function run(
  directory: string,
  scratch: Store,
  { expect, type, timeoutMs = defaultTimeoutMs, signal }: ProofOptions,
  proof: Proof,
): Promise<void> {
  const begun = performance.now();
  const vm = await Vm.restore(
    scratch,
    { directory },
    { name: await scratch.freeVmName(), lazy: true },
  );
  try {
    const seen = { text: '', ended: false, error: undefined as Error | undefined };
    vm.on(
      'console',
      (data) => (seen.text = (seen.text + data.toString('latin1')).slice(-maxConsoleChars)),
    );
    vm.on('exit', () => (seen.ended = true));
    vm.on('error', (error) => (seen.error = error));
    await vm.start();
    if (type !== undefined) vm.consoleInput(Buffer.from(type));
    for (;;) {
      const progress = vm.restoreProgress();
      const { instructions } = vm.status();
      proof.instructions = instructions;
      if (progress && progress.firstInstructionUs > 0) {
        proof.firstInstructionMs = progress.firstInstructionUs / 1000;
      }
      if (progress?.done) proof.completeMs = progress.completeUs / 1000;
      if (expect?.test(seen.text)) proof.expectedMs ??= performance.now() - begun;
      const shown = expect === undefined || proof.expectedMs !== null;
      if (seen.error) throw seen.error;
      if (shown && proof.completeMs !== null && proof.firstInstructionMs !== null) return;
      if (seen.ended && !shown) throw failed(expect, 'the guest ended', seen.text);
      if (seen.ended) return; // it came to its end, and so had all that it needed
      if (performance.now() - begun > timeoutMs) {
        throw failed(shown ? undefined : expect, `after ${timeoutMs / 1000} s`, seen.text);
      }
      if (signal?.aborted) throw new CkptError('CANCELLED', 'the proof was cancelled');
      await setTimeout(pollMs);
    }
  } finally {
    await vm.close();
    await scratch.removeVm(vm.name);
  }
}

function failed(expect: RegExp | undefined, when: string, text: string): CkptError {
  const tail = JSON.stringify(text.slice(-tailChars));
  const what =
    expect === undefined
      ? 'its memory was not complete'
      : `its console had not shown ${expect.source}, but ${tail}`;
  return new CkptError('IO', `${when} ${what}`);
}
