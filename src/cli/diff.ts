/** ckptfs diff: what differs between two checkpoints. */
import type { Command } from 'commander';
import type { CheckpointDiff, DiskDiff } from '../checkpoint/diff.js';
import { withContext } from './context.js';
import { formatFields } from './output.js';
import { Progress } from './progress.js';
import { formatOffset, formatSize } from './sizes.js';

export function registerDiff(program: Command): void {
  program
    .command('diff')
    .argument('<before>', 'a checkpoint')
    .argument('<after>', 'another one')
    .description('show what differs between two checkpoints; -v lists the ranges of memory')
    .action(
      withContext(async (context, _options: object, before: string, after: string) => {
        const { findCheckpoint } = await import('../checkpoint/checkpoints.js');
        const { diffCheckpoints } = await import('../checkpoint/diff.js');
        const store = await context.openStore();
        const one = await findCheckpoint(store, before);
        const other = await findCheckpoint(store, after);
        const diff = await (async () => {
          using progress = await Progress.begin(context.output, 'comparing', 'bytes');
          return await diffCheckpoints(one.directory, other.directory, {
            onProgress: (done, total) => progress.update(done, total),
            signal: context.signal,
          });
        })();
        const names = [one, other].map(({ vm, name }) => `${vm}@${name}`);
        context.output.result(
          { before: names[0], after: names[1], ...diff },
          describeDiff(diff, context.output.verbose),
          `${diff.memory.changedBlocks} blocks`,
        );
        return undefined;
      }),
    );
}

function describeDiff({ memory, disks }: CheckpointDiff, verbose: boolean): string {
  const { memoryBytes, blocks, changedBlocks, changedBytes, ranges, truncated } = memory;
  const fields: [string, string][] = [
    [
      'memory',
      `${changedBlocks} of ${blocks} blocks differ, ${formatSize(changedBytes)} of ${formatSize(memoryBytes)}`,
    ],
    ...disks.map((disk): [string, string] => [`disk ${disk.id}`, describeDisk(disk)]),
  ];
  const list = ranges.map(({ offset, bytes }) => `  ${formatOffset(offset)}  ${formatSize(bytes)}`);
  if (truncated) list.push('  and more');
  return [formatFields(fields), ...(verbose && list.length > 0 ? ['ranges:', ...list] : [])].join(
    '\n',
  );
}

function describeDisk({ state, sameParent, onlyBefore, onlyAfter }: DiskDiff): string {
  if (state !== 'changed') return state;
  const layers = (when: string, list: DiskDiff['onlyAfter']) =>
    list.length === 0
      ? []
      : [
          `${list.length} layers only ${when}, ${formatSize(list.reduce((sum, { bytes }) => sum + bytes, 0))}`,
        ];
  return [
    ...(sameParent ? [] : ['another parent']),
    ...layers('before', onlyBefore),
    ...layers('after', onlyAfter),
  ].join('; ');
}
