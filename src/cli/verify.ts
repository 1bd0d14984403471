/** ckptfs verify: reads and checks every byte of one checkpoint or of all. Ends with 4 on damage. */
import type { Command } from 'commander';
import type { CheckpointEntry } from '../checkpoint/checkpoints.js';
import { CkptError, exitCodes } from '../errors.js';
import type { Damage } from '../native.js';
import type { Context } from './context.js';
import { withContext } from './context.js';
import { Progress } from './progress.js';

export function registerVerify(program: Command): void {
  program
    .command('verify')
    .argument('[ckpt]', 'the checkpoint')
    .option('--all', 'every checkpoint of the store')
    .description('read and check every byte of a checkpoint; exit code 4 when damage is found')
    .action(
      withContext(async (context, options: { all?: boolean }, reference?: string) => {
        if ((reference === undefined) === (options.all !== true)) {
          throw new CkptError(
            'USAGE',
            'verify needs one thing to check; name a checkpoint, or give --all',
          );
        }
        const { findCheckpoint, listAllCheckpoints } = await import('../checkpoint/checkpoints.js');
        const { verifyCheckpoints } = await import('../checkpoint/verify_all.js');
        const store = await context.openStore();
        const entries =
          reference === undefined
            ? await listAllCheckpoints(store)
            : [await findCheckpoint(store, reference)];
        if (entries.length === 0) context.output.note('no checkpoints to verify');
        let damaged = 0;
        using progress = await Progress.begin(context.output, 'verifying', 'bytes');
        await verifyCheckpoints(
          entries,
          (entry, damage) => {
            if (damage.length > 0) damaged++;
            progress.aside(() => report(context, entry, damage));
          },
          {
            onProgress: (done, total) => progress.update(done, total),
            signal: context.signal,
          },
        );
        return damaged === 0 ? exitCodes.done : exitCodes.damaged;
      }),
    );
}

function report(context: Context, { vm, name }: CheckpointEntry, damage: Damage[]): void {
  const checkpoint = `${vm}@${name}`;
  const whole = damage.length === 0;
  const lines = damage.map(({ file, what }) => `  ${file}: ${what}`);
  const text = whole
    ? `${checkpoint}: whole`
    : [`${checkpoint}: DAMAGED; restore these files from a backup or remove it`, ...lines].join(
        '\n',
      );
  const value = { vm, name, ok: whole, damage };
  context.output.result(value, text, whole ? undefined : `${checkpoint}: damaged`);
}
