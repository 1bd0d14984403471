/** ckptfs export: RAM of a checkpoint as a file with holes, flat or an ELF core, or on stdout. */
import { once } from 'node:events';
import { resolve } from 'node:path';
import { type Command, Option } from 'commander';
import type { ByteSource } from '../native.js';
import { CkptError } from '../errors.js';
import type { Checkpoint } from '../checkpoint/checkpoints.js';
import { type Context, withContext } from './context.js';
import { Progress } from './progress.js';
import { formatSize } from './sizes.js';

const formats = ['raw', 'elf'] as const;

interface ExportOptions {
  format: (typeof formats)[number];
  output: string;
  force?: boolean;
}

export function registerExport(program: Command): void {
  program
    .command('export')
    .argument('<ckpt>', 'the checkpoint')
    .description('write the memory of a checkpoint to a file of its own')
    .addOption(
      new Option(
        '--format <format>',
        'RAM as it is (raw), or as a core file for gdb and crash (elf)',
      )
        .choices(formats)
        .default('raw'),
    )
    .requiredOption('-o, --output <file>', 'where to; - is stdout')
    .option('--force', 'replace a file that is there')
    .action(
      withContext(async (context, options: ExportOptions, reference: string) => {
        const { findCheckpoint, openCheckpoint } = await import('../checkpoint/checkpoints.js');
        const toStdout = options.output === '-';
        if (toStdout && process.stdout.isTTY) {
          throw new CkptError('USAGE', 'memory is nothing for a terminal; give -o FILE or a pipe');
        }
        const entry = await findCheckpoint(await context.openStore(), reference);
        const source = await open(await openCheckpoint(entry.directory), options.format);
        const name = `${entry.vm}@${entry.name}`;
        try {
          using progress = await Progress.begin(
            context.output,
            `exporting ${name}`,
            'bytes',
            toStdout,
          );
          await write(context, source, options, (done, total) => progress.update(done, total));
        } finally {
          source.close();
        }
        // On stdout are the bytes, and nothing else.
        if (!toStdout) {
          const path = resolve(options.output);
          const { vm, name: checkpoint } = entry;
          context.output.result(
            { vm, name: checkpoint, path, bytes: source.bytes },
            `${name}: ${formatSize(source.bytes)} of memory in ${path}`,
            path,
          );
        }
        return undefined;
      }),
    );
}

async function open(checkpoint: Checkpoint, format: ExportOptions['format']): Promise<ByteSource> {
  const { openMemoryImage } = await import('../native.js');
  if (format === 'raw') return openMemoryImage(checkpoint.directory);
  const { openCoreFile } = await import('../vmm/core_file.js');
  return openCoreFile(checkpoint);
}

async function write(
  context: Context,
  source: ByteSource,
  options: ExportOptions,
  onProgress: (done: number, total: number) => void,
): Promise<void> {
  const { exportFile, readThrough } = await import('../checkpoint/export.js');
  const { signal } = context;
  if (options.output === '-') return readThrough(source, writeStdout, { onProgress, signal });
  const replace = options.force === true;
  await exportFile(source, resolve(options.output), { onProgress, signal, replace });
}

async function writeStdout(bytes: Uint8Array): Promise<void> {
  // A pipe keeps what it is given until it has been read: it gets a copy.
  if (!process.stdout.write(Uint8Array.from(bytes))) await once(process.stdout, 'drain');
}
