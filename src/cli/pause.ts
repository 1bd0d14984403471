/** ckptfs pause: stop the vCPUs of a running VM; its memory stays. */
import type { Command } from 'commander';
import { withContext } from './context.js';

export function registerPause(program: Command): void {
  program
    .command('pause')
    .argument('<vm>', 'name of the VM')
    .description('stop the vCPUs of a running VM; its memory stays')
    .action(
      withContext(async (context, _options: object, vm: string) => {
        const client = await context.connect(await context.openStore(), vm);
        await client.pause();
        context.output.result({ vm, state: 'paused' }, `${vm} is paused`);
        return undefined;
      }),
    );
}
