/** ckptfs umount: takes a mount of ours away and returns when it is gone. */
import type { Command } from 'commander';
import { withContext } from './context.js';

export function registerUmount(program: Command): void {
  program
    .command('umount')
    .description('take a mount away')
    .argument('<dir>', 'where it is mounted')
    .action(
      withContext(async (context, _options: object, directory: string) => {
        const { unmountDirectory } = await import('../fs/mounts.js');
        const path = await unmountDirectory(directory);
        context.output.result({ directory: path }, `unmounted ${path}`);
        return undefined;
      }),
    );
}
