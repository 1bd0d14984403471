/** ckptfs compact: gives back the room of memory in checkpoints that none of them needs any more. */
import type { Command } from 'commander';
import type { CompactionSummary } from '../checkpoint/compact.js';
import type { Store } from '../checkpoint/store.js';
import { exitCodes } from '../errors.js';
import { type Context, withContext } from './context.js';
import { Progress } from './progress.js';
import { formatSize } from './sizes.js';

export function registerCompact(program: Command): void {
  program
    .command('compact')
    .argument('[vm]', 'name of a VM, running or not (default: all)')
    .option('--dry-run', 'only tell what would be done')
    .description('free what removed checkpoints have left in files that others share')
    .action(
      withContext(async (context, options: { dryRun?: boolean }, vm?: string) => {
        const store = await context.openStore();
        const vms = vm === undefined ? await store.listVms() : [vm];
        let partly = false;
        for (const name of vms) {
          if (!(await compactOne(context, store, name, options.dryRun === true))) partly = true;
        }
        if (vms.length === 0) context.output.note('no VMs to compact');
        return partly ? exitCodes.partly : exitCodes.done;
      }),
    );
}

/** Compacts the checkpoints of one VM and tells of it; false when damaged ones had to be left. */
export async function compactOne(
  context: Context,
  store: Store,
  vm: string,
  dryRun: boolean,
): Promise<boolean> {
  const { compactVm } = await import('../checkpoint/compact.js');
  const summary = await (async () => {
    using progress = await Progress.begin(context.output, `compacting ${vm}`, 'bytes');
    return await compactVm(store, vm, {
      dryRun,
      onProgress: (done, total) => progress.update(done, total),
      signal: context.signal,
    });
  })();
  report(context, summary);
  return summary.damaged.length === 0;
}

function report(context: Context, summary: CompactionSummary): void {
  const { vm, dryRun, checkpoints, damaged, segments, rewritten } = summary;
  const freedBytes = summary.rewrittenBytes - summary.writtenBytes;
  const [would, frees] = dryRun ? ['would be ', 'at least '] : ['', ''];
  const text =
    rewritten === 0
      ? `${vm}: nothing to give back in ${segments} segments (${formatSize(summary.segmentBytes)})`
      : `${vm}: ${rewritten} of ${segments} segments ${would}replaced in ` +
        `${checkpoints.length} checkpoints; ${frees}${formatSize(freedBytes)} given back`;
  context.output.result({ ...summary, freedBytes }, text);
  for (const name of damaged) {
    context.output.note(
      `${vm}@${name} is damaged and was left as it is; see ckptfs verify ${vm}@${name}`,
    );
  }
}
