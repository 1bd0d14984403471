/** ckptfs console: attaches the terminal to a running VM's console. */
import type { Command } from 'commander';
import { withContext } from './context.js';
import { attachTerminal, consolePrinter } from './terminal.js';

export function registerConsole(program: Command): void {
  program
    .command('console')
    .argument('<vm>', 'name of the VM')
    .description('attach to the console of a running VM; Ctrl-] detaches')
    .action(
      withContext(async (context, _options: object, vm: string) => {
        const client = await context.connect(await context.openStore(), vm);
        const stream = await client.console();
        const print = consolePrinter(context, vm);
        context.output.status(
          { vm, event: 'attached' },
          process.stdin.isTTY ? `attached to ${vm}; Ctrl-] detaches` : undefined,
        );
        using attachment = attachTerminal((bytes) => stream.write(bytes));
        const interrupted = new Promise<number>((resolve) => {
          context.signal.addEventListener('abort', () => resolve(context.interruptCode));
        });
        const printed = (async () => {
          for await (const bytes of stream.readable) print(bytes);
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
