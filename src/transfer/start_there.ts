/**
 * A VM that goes on at the other store (requirement E3), in the background, from a checkpoint that is there: by `ckptfs recover`
 * of that store into itself, run on this machine, or at the far end by the same ssh client.
 *
 * The receiver of a transfer starts nothing, whoever asks for it: who may send checkpoints may not therefore run
 * programs. A key that is let in for `ckptfs receive` alone cannot start a clone, and is told so.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { z } from 'zod';
import { CkptError, isErrorCode } from '../errors.js';
import { greeting } from './connection.js';
import type { Destination } from './destination.js';
import { farCommand, type SshOptions } from './dial.js';

export interface StartedThere {
  vm: string;
  pid: number;
  firstInstructionMs: number | null;
}

const answerSchema = z.discriminatedUnion('type', [
  z.object({
    type: z.literal('result'),
    vm: z.string(),
    pid: z.number(),
    firstInstructionMs: z.number().nullable().default(null),
  }),
  z.object({ type: z.literal('error'), code: z.string(), message: z.string() }),
]);

const maxOutputChars = 1 << 20;

/**
 * Starts `checkpoint` (VM@NAME) of the store at `path`, as its target calls it; `program` is ckptfs on this machine, in
 * words. Resolves when the guest runs. UNSUPPORTED where no command can be run, and what `recover` fails with.
 */
export async function startThere(
  destination: Destination,
  { path, checkpoint, program }: { path: string; checkpoint: string; program: readonly string[] },
  options: SshOptions & { signal?: AbortSignal } = {},
): Promise<StartedThere> {
  const words = ['recover', path, checkpoint, '--store', path, '--detach', '--no-wait', '--json'];
  const { signal, ...ssh } = options;
  if (signal?.aborted) throw interrupted(checkpoint);
  const [command = '', ...args] =
    destination.kind === 'directory'
      ? [...program, ...words]
      : farCommand(destination, words, ssh).flat();
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'] });
  const interrupt = (): void => void child.kill('SIGTERM');
  signal?.addEventListener('abort', interrupt);
  const said = { stdout: '', stderr: '' };
  for (const stream of ['stdout', 'stderr'] as const) {
    child[stream].setEncoding('utf8').on('data', (piece: string) => {
      said[stream] = (said[stream] + piece).slice(-maxOutputChars);
    });
  }
  try {
    await once(child, 'close');
  } catch (error) {
    throw new CkptError('IO', `${command} cannot be run`, {}, { cause: error });
  } finally {
    signal?.removeEventListener('abort', interrupt);
  }
  if (signal?.aborted) throw interrupted(checkpoint);
  const answer = answerIn(said.stdout);
  if (answer?.type === 'result') return answer;
  if (answer !== undefined) {
    throw new CkptError(isErrorCode(answer.code) ? answer.code : 'IO', answer.message);
  }
  throw notStarted(
    checkpoint,
    path,
    said.stdout.startsWith(greeting) ? 'the far end only receives' : lastLine(said.stderr),
  );
}

function notStarted(checkpoint: string, path: string, why: string): CkptError {
  return new CkptError(
    'UNSUPPORTED',
    `the clone could not be started there (${why}); ` +
      `run "ckptfs restore ${checkpoint} --store ${path} --detach" there`,
  );
}

function lastLine(text: string): string {
  const line = text.trim().split('\n').at(-1);
  return line === undefined || line === '' ? 'no command can be run' : line;
}

function interrupted(checkpoint: string): CkptError {
  return new CkptError(
    'CANCELLED',
    `the start of the clone from ${checkpoint} was interrupted; "ckptfs list" there tells whether it runs`,
  );
}

/** The last line that is an answer. */
function answerIn(output: string): z.infer<typeof answerSchema> | undefined {
  for (const line of output.split('\n').toReversed()) {
    try {
      const answer = answerSchema.safeParse(JSON.parse(line));
      if (answer.success) return answer.data;
    } catch {
      // Not JSON: what a shell at the far end prints.
    }
  }
  return undefined;
}
