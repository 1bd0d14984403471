/** ckptfs stop: ends a VM as if its plug were pulled. Its disks and checkpoints stay. */
import type { Command } from 'commander';
import { withContext } from './context.js';
import { waitUntilReleased } from './vms.js';

export function registerStop(program: Command): void {
  program
    .command('stop')
    .argument('<vm>', 'name of the VM')
    .description('end a running VM as if its plug were pulled; its disks and checkpoints stay')
    .action(
      withContext(async (context, _options: object, vm: string) => {
        const store = await context.openStore();
        const client = await context.connect(store, vm);
        await client.stop();
        await waitUntilReleased(store, vm);
        context.output.result({ vm, state: 'stopped' }, `${vm} is stopped`);
        return undefined;
      }),
    );
}
