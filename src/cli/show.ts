/** ckptfs show: what one checkpoint is and holds. */
import type { Command } from 'commander';
import type { Manifest } from '../checkpoint/manifest.js';
import { withContext } from './context.js';
import { formatFields } from './output.js';
import { formatSize, formatUs } from './sizes.js';

export function registerShow(program: Command): void {
  program
    .command('show')
    .argument('<ckpt>', 'the checkpoint')
    .description('show a checkpoint: its manifest, sizes and files')
    .action(
      withContext(async (context, _options: object, reference: string) => {
        const { findCheckpoint } = await import('../checkpoint/checkpoints.js');
        const { vm, name, directory, manifest, damage } = await findCheckpoint(
          await context.openStore(),
          reference,
        );
        if (manifest === undefined) throw damage ?? new Error('an entry without a manifest');
        context.output.result(
          { ...manifest, vm, name, directory },
          describeManifest(`${vm}@${name}`, directory, manifest, context.output.verbose),
          manifest.id,
        );
        return undefined;
      }),
    );
}

function describeManifest(
  name: string,
  directory: string,
  manifest: Manifest,
  verbose: boolean,
): string {
  const { stats, geometry, files, disks } = manifest;
  const blockBytes = geometry.pageBytes * geometry.pagesPerBlock;
  const { vcpu, background, zero, parent, duplicate } = stats.blocks;
  const fields: [string, string | undefined][] = [
    ['checkpoint', name],
    ['id', manifest.id],
    ['time', manifest.createdAt],
    ['directory', directory],
    ['cpus', String(manifest.cpus)],
    ['memory', `${formatSize(manifest.memoryBytes)} in blocks of ${formatSize(blockBytes)}`],
    ['stored', `${formatSize(stats.storedBytes)}, compression ${manifest.codec}`],
    ['parent', manifest.parentId ?? undefined],
    ['group', manifest.group && `${manifest.group.id}, of ${manifest.group.vms.join(', ')}`],
    [
      'blocks',
      `${vcpu} by vCPUs, ${background} in background, ${zero} zero, ${duplicate} duplicate, ${parent} in parent`,
    ],
    ['pause', formatUs(stats.pauseUs)],
    ['total', formatUs(stats.totalUs)],
    ['faults', String(stats.faults)],
    ...disks.map((disk): [string, string] => [
      `disk ${disk.id}`,
      `${disk.parent} (${formatSize(disk.parentIdentity.bytes)}) under ${disk.redo.length} redo logs`,
    ]),
  ];
  const list = files.map((file) => `  ${file.path}  ${formatSize(file.bytes)}`);
  return [formatFields(fields), ...(verbose ? ['files:', ...list] : [])].join('\n');
}
