/** ckptfs retry: a VM whose memory could not be loaded tries again, once its source is back. */
import type { Command } from 'commander';
import { withContext } from './context.js';

export function registerRetry(program: Command): void {
  program
    .command('retry')
    .argument('<vm>', 'name of the VM')
    .description('let a VM that failed for want of its checkpoint go on, once that can be read')
    .action(
      withContext(async (context, _options: object, vm: string) => {
        const client = await context.connect(await context.openStore(), vm);
        await client.retry();
        context.output.result({ vm, state: 'running' }, `${vm} is running`);
        return undefined;
      }),
    );
}
