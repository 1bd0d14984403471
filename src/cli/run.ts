/** ckptfs run: starts a VM from a kernel and disks, or a stopped one again. */
import { readFile } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { type Command, Option } from 'commander';
import type { Store } from '../checkpoint/store.js';
import { CkptError, systemError } from '../errors.js';
import { type TraceName, traceNames } from '../native.js';
import type { DiskConfig, VmConfigInput } from '../types.js';
import type { Vm } from '../vmm/vm.js';
import { inBackground } from './background.js';
import { withContext } from './context.js';
import { parseDisk } from './disk_option.js';
import { parseCount, parseInterval, parseSize } from './sizes.js';

export interface RunOptions {
  name?: string;
  config?: string;
  kernel?: string;
  initrd?: string;
  append?: string;
  memory?: number;
  cpus?: number;
  disk?: Partial<DiskConfig>[];
  mount?: string;
  mountOptions?: string;
  detach?: boolean;
  trace?: TraceName;
  checkpointEvery?: number;
  checkpointAfterWritten?: number;
  checkpointKeep?: number;
  exitCode?: boolean;
}

export function registerRun(program: Command): void {
  program
    .command('run')
    .description('start a VM, or a stopped one again by its --name alone')
    .option('--name <name>', 'name of the VM (default: the first free of vm1, vm2, ...)')
    .option('--config <file>', 'JSON file with the configuration; options go before it')
    .option('--kernel <file>', 'Linux Image or ELF file')
    .option('--initrd <file>', 'initial ramdisk')
    .option('--append <text>', 'kernel command line')
    .option('--memory <size>', 'guest RAM (default: 512M)', (text) =>
      parseSize(text, 'memory size'),
    )
    .option('--cpus <n>', 'vCPUs (default: 1)', (text) => parseCount(text, 'number of CPUs', 1))
    .option(
      '--disk <file[,option...]>',
      'raw disk; options: id=ID, mode=persistent|nonpersistent (default), readonly; repeatable',
      (text, previous?: Partial<DiskConfig>[]) => [...(previous ?? []), parseDisk(text)],
    )
    .option('--mount <dir>', 'serve the VM as files there while it runs')
    .option('--mount-options <list>', 'as -o of ckptfs mount: rw, say')
    .option('--detach', 'run in the background; its console goes to console.log')
    .addOption(
      new Option(
        '--trace <engine>',
        `how accesses to memory are traced (default: ${traceNames[0]})`,
      ).choices(traceNames),
    )
    .option('--checkpoint-every <interval>', 'take a checkpoint every 10m, say', parseInterval)
    .option(
      '--checkpoint-after-written <size>',
      'take one when so much memory has been written since the last',
      (text) => parseSize(text),
    )
    .option('--checkpoint-keep <n>', 'keep the newest n of those (default: all)', (text) =>
      parseCount(text, 'number of checkpoints', 1),
    )
    .option('--exit-code', 'end with 0 if the guest powers off with reason 0, else with 1')
    .addHelpText(
      'after',
      '\nThe console is on stdin and stdout; Ctrl-] on a terminal ends the VM. Without a terminal Ctrl-C does.' +
        '\nSIGUSR1 to the process takes a checkpoint.',
    )
    .action(
      withContext(async (context, options: RunOptions) => {
        const start = async () => {
          const { runProcess } = await import('./foreground.js');
          const store = await context.openStore({ create: true });
          return runProcess(context, store, await makeVm(store, options), options);
        };
        return inBackground(context, options.detach, start, (vm, pid) =>
          context.output.result({ vm, pid, state: 'running' }, `${vm} is running (pid ${pid})`, vm),
        );
      }),
    );
}

/** A new VM; or, when nothing but the name of a stopped one is given, that VM again. */
async function makeVm(store: Store, options: RunOptions): Promise<Vm> {
  const { Vm } = await import('../vmm/vm.js');
  const input = await readInput(options);
  const { name, ...rest } = input;
  const isAgain = name !== undefined && Object.keys(rest).length === 0;
  if (isAgain && (await store.hasVm(name))) return Vm.restart(store, name);
  return Vm.create(store, input);
}

/** The configuration that the file and the options give together. */
export async function readInput(options: RunOptions): Promise<VmConfigInput> {
  const { name, kernel, initrd, append, memory, cpus, disk, trace } = options;
  const file = options.config === undefined ? {} : await readConfigFile(options.config);
  return {
    ...file,
    ...(name === undefined ? {} : { name }),
    ...(kernel === undefined ? {} : { kernel }),
    ...(initrd === undefined ? {} : { initrd }),
    ...(append === undefined ? {} : { append }),
    ...(memory === undefined ? {} : { memoryBytes: memory }),
    ...(cpus === undefined ? {} : { cpus }),
    ...(disk === undefined ? {} : { disks: disk }),
    ...(trace === undefined ? {} : { trace }),
    ...scheduleOf(options, file),
  };
}

/** The schedule of the options, over that of the file. */
function scheduleOf(options: RunOptions, file: VmConfigInput): Pick<VmConfigInput, 'schedule'> {
  const given = {
    everySeconds: options.checkpointEvery,
    afterWrittenBytes: options.checkpointAfterWritten,
    keep: options.checkpointKeep,
  };
  const entries = Object.entries(given).filter(([, value]) => value !== undefined);
  if (entries.length === 0) return {};
  return { schedule: { ...file.schedule, ...Object.fromEntries(entries) } };
}

/** Reads a configuration file; paths in it are relative to it. The VM layer validates the rest. */
async function readConfigFile(path: string): Promise<VmConfigInput> {
  let value: unknown;
  try {
    value = JSON.parse(await readFile(path, 'utf8'));
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw systemError(error, `cannot read ${path}`);
    throw new CkptError('USAGE', `${path} is not JSON: ${error.message}; correct it`, { path });
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new CkptError('USAGE', `${path} does not hold a JSON object; see config.json of a VM`);
  }
  return withAbsolutePaths(value, dirname(resolve(path)));
}

function withAbsolutePaths(value: object, base: string): object {
  const result: Record<string, unknown> = { ...value };
  for (const key of ['kernel', 'initrd', 'path']) {
    if (typeof result[key] === 'string') result[key] = resolve(base, result[key]);
  }
  if (Array.isArray(result.disks)) {
    result.disks = result.disks.map((disk: unknown) =>
      typeof disk === 'object' && disk !== null ? withAbsolutePaths(disk, base) : disk,
    );
  }
  return result;
}
