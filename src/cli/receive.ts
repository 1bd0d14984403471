/** ckptfs receive: the far end of backup and recover, on stdin and stdout; run by ssh. */
import type { Command } from 'commander';
import { withContext } from './context.js';
import { parseInterval } from './sizes.js';

interface Options {
  existing?: boolean;
  idle?: number;
  remove: boolean;
}

export function registerReceive(program: Command): void {
  program
    .command('receive')
    .argument('<store>', 'the store that takes and gives checkpoints, made if there is none')
    .option('--existing', 'make no store')
    .option(
      '--idle <interval>',
      'give up when nothing comes for so long (default: 20s)',
      parseInterval,
    )
    .option('--no-remove', 'remove no checkpoint, whoever asks for it')
    .description('serve a store to "backup" and "recover" of another host, over stdin and stdout')
    .addHelpText(
      'after',
      '\nssh runs it. To let a key do nothing else, put it into authorized_keys as' +
        '\ncommand="ckptfs receive /srv/backup",restrict ssh-ed25519 AAAA...',
    )
    .action(
      withContext(async (_context, { existing, idle, remove }: Options, path: string) => {
        const { Store } = await import('../checkpoint/store.js');
        const { serve } = await import('../transfer/serve.js');
        const { standardInput } = await import('../transfer/input.js');
        const open = () => Store.open(path, { create: existing !== true });
        await serve(open, standardInput(), process.stdout, {
          remove,
          ...(idle === undefined ? {} : { idleMs: idle * 1000 }),
        });
        return undefined;
      }),
    );
}
