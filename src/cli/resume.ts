/** ckptfs resume: let a paused VM go on. */
import type { Command } from 'commander';
import { withContext } from './context.js';

export function registerResume(program: Command): void {
  program
    .command('resume')
    .argument('<vm>', 'name of the VM')
    .description('let a paused VM go on')
    .action(
      withContext(async (context, _options: object, vm: string) => {
        const client = await context.connect(await context.openStore(), vm);
        await client.resume();
        context.output.result({ vm, state: 'running' }, `${vm} is running`);
        return undefined;
      }),
    );
}
