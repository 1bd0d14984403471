/** ckptfs disk: its subcommands; what disks hold, and disks of their own made of them. */
import { resolve } from 'node:path';
import type { Command } from 'commander';
import { CkptError } from '../errors.js';
import type { DiskMap } from '../native.js';
import type { FoundDisk } from '../vmm/disk_reference.js';
import { type Context, withContext } from './context.js';
import { checkDisk, commitDisk, compactDisk, discardDisk, findDisk } from './disk_upkeep.js';
import { formatFields } from './output.js';
import { Progress } from './progress.js';
import { formatOffset, formatSize, parseCount, parseSize } from './sizes.js';

const vmDiskHelp = 'VM or VM:DISK';
const referenceHelp = 'VM, VM:DISK, VM@CKPT, VM@CKPT:DISK, or a raw file';

export function registerDisk(program: Command): void {
  const disk = program
    .command('disk')
    .description('make, look at, check, commit, compact and copy virtual disks');
  disk
    .command('create')
    .argument('<file>', 'where the raw disk is to be')
    .option('--size <size>', 'of an empty disk', (text) => parseSize(text, 'disk size'))
    .option('--from <disk>', `the disk to copy: ${referenceHelp}`)
    .description('make a raw disk, empty or as a copy of another one')
    .action(withContext(create));
  disk
    .command('info')
    .argument('<disk>', referenceHelp)
    .description('show the layers of a disk and how much of it each one has')
    .action(withContext(info));
  disk
    .command('map')
    .argument('<disk>', referenceHelp)
    .description('show which layer has which part of a disk')
    .action(withContext(map));
  disk
    .command('check')
    .argument('<disk>', referenceHelp)
    .option(
      '--repair',
      'cut damaged logs of a stopped VM off before the first record that is not whole',
    )
    .description('read and check every byte of its redo logs; exit code 4 when damage is found')
    .action(withContext(checkDisk));
  disk
    .command('commit')
    .argument('<disk>', vmDiskHelp)
    .option('--copy', 'copy a parent that others refer to, where the filesystem has no reflinks')
    .description('write the redo logs of a disk into its parent, also while the VM runs')
    .action(withContext(commitDisk));
  disk
    .command('compact')
    .argument('<disk>', vmDiskHelp)
    .option('--all', 'make one log of all, also of those that are mostly of use')
    .option(
      '--threshold <percent>',
      'logs of which less than this is of use (default: 50)',
      (text) => parseCount(text, 'percentage', 1),
    )
    .description('rewrite redo logs that are mostly of no use any more, also while the VM runs')
    .action(withContext(compactDisk));
  disk
    .command('discard')
    .argument('<disk>', vmDiskHelp)
    .description('throw away all that the redo logs of a stopped VM hold')
    .action(withContext(discardDisk));
  disk
    .command('flatten')
    .argument('<disk>', referenceHelp)
    .requiredOption('-o, --output <file>', 'where to')
    .option('--force', 'replace a file that is there')
    .option('--restart', 'begin anew, where an attempt that was cut short has left a part')
    .description(
      'write all layers of a disk to one raw file, with holes where it is zero; goes on where it was cut short',
    )
    .action(withContext(flatten));
}

async function create(
  context: Context,
  options: { size?: number; from?: string },
  file: string,
): Promise<undefined> {
  const { size, from } = options;
  if ((size === undefined) === (from === undefined)) {
    throw new CkptError('USAGE', 'disk create needs something to hold; give --size or --from');
  }
  if (from !== undefined) return copy(context, await findDisk(context, from), file);
  const { createEmptyFile } = await import('../checkpoint/export.js');
  const sectorBytes = 512;
  const bytes = size ?? 0;
  if (bytes === 0 || bytes % sectorBytes !== 0) {
    throw new CkptError(
      'USAGE',
      `a disk is a whole number of 512-byte sectors, not ${bytes} bytes`,
    );
  }
  const path = resolve(file);
  await createEmptyFile(path, bytes);
  context.output.result({ path, bytes }, `${path}: an empty disk of ${formatSize(bytes)}`, path);
  return undefined;
}

/** What each layer has of the disk, the parent first. */
function shares({ runs, layers }: DiskMap, parent: string) {
  return [{ path: parent }, ...layers].map((layer, number) => {
    const own = runs.filter((run) => run.layer === number);
    const sum = (zeroes: boolean) =>
      own.filter((run) => run.zeroes === zeroes).reduce((bytes, run) => bytes + run.bytes, 0);
    return { ...layer, layer: number, dataBytes: sum(false), zeroBytes: sum(true) };
  });
}

async function info(context: Context, _options: object, reference: string): Promise<undefined> {
  const { mapDisk } = await import('../native.js');
  const { name, layers } = await findDisk(context, reference);
  const found = await mapDisk(layers);
  const parts = shares(found, layers.parent);
  const text = formatFields([
    ['disk', name],
    ['size', formatSize(found.bytes)],
    ...parts.map(({ path, dataBytes, zeroBytes, ...log }): [string, string] => {
      const stored =
        'bytes' in log ? `, ${formatSize(log.bytes)}${log.sealed ? ' sealed' : ''}` : '';
      const zeros = zeroBytes === 0 ? '' : ` and ${formatSize(zeroBytes)} of zeros`;
      return [`layer ${log.layer}`, `${path}${stored}: ${formatSize(dataBytes)}${zeros}`];
    }),
  ]);
  context.output.result({ disk: name, bytes: found.bytes, layers: parts }, text, name);
  return undefined;
}

async function map(context: Context, _options: object, reference: string): Promise<undefined> {
  const { mapDisk } = await import('../native.js');
  const { layers } = await findDisk(context, reference);
  const found = await mapDisk(layers);
  const paths = [layers.parent, ...found.layers.map(({ path }) => path)];
  const rows = found.runs.map((run) => ({ ...run, path: paths[run.layer] ?? '' }));
  context.output.results(rows, {
    columns: [
      { title: 'OFFSET', value: (row) => formatOffset(row.offset) },
      { title: 'BYTES', value: (row) => formatSize(row.bytes), right: true },
      { title: 'LAYER', value: (row) => String(row.layer), right: true },
      { title: 'WHAT', value: (row) => (row.zeroes ? 'zeros' : 'data') },
      { title: 'FILE', value: (row) => row.path },
    ],
    brief: (row) => `${row.offset} ${row.bytes} ${row.layer} ${row.zeroes ? 'zeros' : 'data'}`,
    none: 'an empty disk',
  });
  return undefined;
}

async function flatten(
  context: Context,
  options: { output: string; force?: boolean; restart?: boolean },
  reference: string,
): Promise<undefined> {
  const { flattenDisk } = await import('../checkpoint/disk_copy.js');
  const { name, layers } = await findDisk(context, reference);
  const path = resolve(options.output);
  using progress = await Progress.begin(context.output, `copying ${name}`, 'bytes');
  const { bytes, resumedBytes } = await flattenDisk(layers, path, {
    onProgress: (done, total) => progress.update(done, total),
    signal: context.signal,
    replace: options.force === true,
    restart: options.restart === true,
  });
  const before = resumedBytes === 0 ? '' : `, ${formatSize(resumedBytes)} of it from before`;
  context.output.result(
    { disk: name, path, bytes, resumedBytes },
    `${name}: ${formatSize(bytes)} in ${path}${before}`,
    path,
  );
  return undefined;
}

async function copy(
  context: Context,
  { name, layers }: FoundDisk,
  file: string,
): Promise<undefined> {
  const { openDisk } = await import('../native.js');
  const { exportFile } = await import('../checkpoint/export.js');
  const path = resolve(file);
  const source = await openDisk(layers);
  try {
    using progress = await Progress.begin(context.output, `copying ${name}`, 'bytes');
    await exportFile(source, path, {
      onProgress: (done, total) => progress.update(done, total),
      signal: context.signal,
    });
  } finally {
    source.close();
  }
  const { bytes } = source;
  context.output.result(
    { disk: name, path, bytes },
    `${name}: ${formatSize(bytes)} in ${path}`,
    path,
  );
  return undefined;
}
