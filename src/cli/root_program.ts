/** The command line but for its commands: what they all have. */
import { Command } from 'commander';

const epilogue = `
CKPT is VM@NAME, VM@latest, an id, or 4 or more digits of one. Sizes take K, M, G, T (powers of 1024).
Exit codes: 0 done, 1 failed, 2 usage, 3 partly done, 4 damage found, 10 no such thing, 11 busy,
130 interrupted. DEBUG=ckptfs:* logs to stderr.`;

/** The program without its commands. Never exits by itself: errors are thrown. */
export function rootProgram(): Command {
  return (
    new Command('ckptfs')
      .description('Virtual machines with live checkpoints, whose disks and checkpoints are files')
      .option('--store <dir>', 'the store (else $CKPTFS_STORE, else $XDG_DATA_HOME/ckptfs)')
      .option('--json', 'one JSON object a line, with type status, result or error')
      .option('-q, --quiet', 'print results only, and those briefly')
      .option('-v, --verbose', 'tell more')
      .addHelpText('after', epilogue)
      .exitOverride()
      .configureOutput({ outputError: () => undefined })
      // Global options may stand behind the command too, so help shows them with every command.
      .configureHelp({ showGlobalOptions: true })
  );
}
