/** ckptfs console: attaches the terminal to a running VM's console. */
import type { Command } from 'commander';
import { withContext } from './context.js';
import { attachTerminal } from './terminal.js';

export function registerConsole(program: Command): void {
  program
    .command('console')
    .argument('<vm>', 'name of the VM')
    .description('attach to the console of a running VM; Ctrl-] detaches')
    .action(
      withContext(async (context, _options: object, vm: string) => {
        const client = await context.connect(await context.openStore(), vm);
        const stream = await client.console();
        if (process.stdin.isTTY) context.output.note(`attached to ${vm}; Ctrl-] detaches`);
        using attachment = attachTerminal((bytes) => stream.write(bytes));
        const interrupted = new Promise<number>((resolve) => {
          context.signal.addEventListener('abort', () => resolve(context.interruptCode));
        });
        const printed = (async () => {
          for await (const bytes of stream.readable) process.stdout.write(bytes);
          return undefined;
        })();
        // Ended by us, the stream may fail as it closes; there is nothing left to print then.
        printed.catch(() => undefined);
        try {
          return await Promise.race([attachment.left.then(() => undefined), interrupted, printed]);
        } finally {
          stream.end();
        }
      }),
    );
}
