/** ckptfs prune: removes the checkpoints of a VM that no rule keeps. */
import type { Command } from 'commander';
import type { RetentionRules, Verdict } from '../checkpoint/retention.js';
import type { Store } from '../checkpoint/store.js';
import { CkptError, exitCodes } from '../errors.js';
import { type Context, withContext } from './context.js';
import { formatTime, parseCount } from './sizes.js';

type PruneOptions = RetentionRules & { dryRun?: boolean; compact?: boolean };

/** What became of one checkpoint. */
interface PruneRow {
  vm: string;
  name: string;
  id?: string;
  createdAt: string;
  /** Why it stays; none when it goes. */
  reasons: string[];
  removed: boolean;
}

export function registerPrune(program: Command): void {
  const count = (text: string) => parseCount(text, 'number of checkpoints', 1);
  program
    .command('prune')
    .argument('<vm>', 'name of the VM')
    .description('remove the checkpoints of a VM that none of the rules keeps')
    .option('--keep-last <n>', 'keep the newest n', count)
    .option('--keep-hourly <n>', 'keep the newest of each of the last n hours with any', count)
    .option('--keep-daily <n>', 'the same for days', count)
    .option('--keep-weekly <n>', 'the same for weeks, which begin on Monday', count)
    .option('--keep-monthly <n>', 'the same for months', count)
    .option('--dry-run', 'only tell what would be done')
    .option('--compact', 'then compact what stays, if anything was removed')
    .addHelpText(
      'after',
      '\nTimes are in UTC. A rule that is not used up keeps the oldest checkpoint too. Every checkpoint is whole by' +
        '\nitself: removing one harms no other. "ckptfs compact" frees what only removed ones needed.',
    )
    .action(
      withContext(async (context, options: PruneOptions, vm: string) => {
        const { listCheckpoints } = await import('../checkpoint/checkpoints.js');
        const { judge } = await import('../checkpoint/retention.js');
        const { dryRun, compact, ...rules } = options;
        const store = await context.openStore();
        await store.needVm(vm);
        const verdicts = judge(await listCheckpoints(store, vm), rules);
        const { rows, failed } = await carryOut(context, store, verdicts, dryRun === true);
        report(context, rows, dryRun === true);
        let whole = !failed;
        if (rows.some(({ removed }) => removed)) {
          if (compact === true) {
            const { compactOne } = await import('./compact.js');
            whole = (await compactOne(context, store, vm, false)) && whole;
          } else {
            context.output.note(`what only these needed of shared files: ckptfs compact ${vm}`);
          }
        }
        return whole ? exitCodes.done : exitCodes.partly;
      }),
    );
}

/** Removes what has no reason to stay; one that cannot be removed now is told, and keeps no other. */
async function carryOut(
  context: Context,
  store: Store,
  verdicts: Verdict[],
  dryRun: boolean,
): Promise<{ rows: PruneRow[]; failed: boolean }> {
  const { checkpointsBeingLoaded, removeUnlessLoaded } = await import('../vmm/loading.js');
  const loaded = dryRun ? new Map<string, string>() : await checkpointsBeingLoaded(store);
  const rows: PruneRow[] = [];
  let failed = false;
  for (const { entry, reasons } of verdicts) {
    const { vm, name, createdAt, manifest } = entry;
    const row: PruneRow = {
      vm,
      name,
      ...(manifest === undefined ? {} : { id: manifest.id }),
      createdAt: createdAt.toISOString(),
      reasons,
      removed: false,
    };
    rows.push(row);
    if (reasons.length > 0 || dryRun) continue;
    if (context.signal.aborted) throw new CkptError('CANCELLED', 'interrupted');
    try {
      await removeUnlessLoaded(store, entry, loaded);
      row.removed = true;
    } catch (error) {
      if (!(error instanceof CkptError)) throw error;
      failed = true;
      row.reasons.push('cannot be removed');
      context.output.note(`ckptfs: ${error.message}`);
    }
  }
  return { rows, failed };
}

function report(context: Context, rows: PruneRow[], dryRun: boolean): void {
  const fate = ({ reasons, removed }: PruneRow) =>
    reasons.length > 0 ? 'keep' : removed ? 'removed' : 'would be removed';
  context.output.results(rows, {
    columns: [
      { title: 'CHECKPOINT', value: (row) => `${row.vm}@${row.name}` },
      { title: 'TIME', value: (row) => formatTime(new Date(row.createdAt)) },
      { title: dryRun ? 'WOULD' : 'DONE', value: fate },
      { title: 'WHY', value: (row) => row.reasons.join(', ') },
    ],
    brief: (row) => `${row.vm}@${row.name} ${fate(row)}`,
    none: 'no checkpoints to prune',
  });
}
