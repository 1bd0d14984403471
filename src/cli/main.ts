#!/usr/bin/env node
/** The ckptfs command: runs the command line and turns its failure into a line and an exit code. */
import { type Command, CommanderError } from 'commander';
import { CkptError, exitCodes, toCkptError } from '../errors.js';
import { Output } from './output.js';
import { rootProgram } from './root_program.js';

/**
 * The commands between whose start and a guest's first instruction people wait: alone, they are loaded in half the
 * time of all.
 */
const urgent: Record<string, () => Promise<(program: Command) => void>> = {
  receive: async () => (await import('./receive.js')).registerReceive,
  recover: async () => (await import('./recover.js')).registerRecover,
  restore: async () => (await import('./restore.js')).registerRestore,
};

/** The command line as far as `argv` needs it. */
async function programFor([, , word = '']: string[]): Promise<Command> {
  if (!Object.hasOwn(urgent, word)) return (await import('./program.js')).buildProgram();
  const program = rootProgram();
  (await urgent[word]?.())?.(program);
  return program;
}

/** A commander error as ours; undefined when it was no failure (help was asked for). */
function usageError(error: CommanderError): CkptError | undefined {
  if (error.exitCode === 0) return undefined;
  if (error.code === 'commander.help') {
    return new CkptError('USAGE', 'no command given; see "ckptfs --help"');
  }
  const message = error.message.replace(/^error: /, '').replace(/\.?\n/g, ' ');
  return new CkptError('USAGE', `${message}; see "ckptfs --help"`);
}

/** Runs the command line; failures become one line (or object) and the exit code. */
export async function main(argv: string[]): Promise<void> {
  // A reader that has seen enough (head) is no failure.
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    process.exit(error.code === 'EPIPE' ? exitCodes.done : exitCodes.failed);
  });
  try {
    const program = await programFor(argv);
    await program.parseAsync(argv);
  } catch (error) {
    const failure = error instanceof CommanderError ? usageError(error) : error;
    if (failure === undefined) return;
    // The global options may not have been parsed when this failed.
    new Output({ json: argv.includes('--json') }).error(failure);
    process.exitCode = toCkptError(failure).exitCode;
  }
}

await main(process.argv);
// All output is written: it is synchronous on Linux. A peer that still holds a connection, such as a
// console client of a VM that has ended, must not keep a command that is done.
process.exit();
