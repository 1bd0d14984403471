/** ckptfs clone: a second VM made from one that runs, here or in another store, or from a checkpoint. */
import { type Command, Option } from 'commander';
import { CkptError } from '../errors.js';
import { type Codec, codecs } from '../native.js';
import type { CloneToCommandOptions } from './clone_to.js';
import { type Context, withContext } from './context.js';
import { restoring } from './restore.js';
import { parseCount, parseRate, parseSize } from './sizes.js';
import { addSshOptions } from './ssh_options.js';

export interface CloneCommandOptions extends Partial<CloneToCommandOptions> {
  name?: string;
  inFlight?: boolean;
  compress?: Codec;
  limit?: number;
  mount?: string;
  mountOptions?: string;
  detach?: boolean;
  wait: boolean;
  exitCode?: boolean;
}

export function registerClone(program: Command): void {
  const command = program
    .command('clone')
    .argument('<source>', 'name of a running VM, or a checkpoint')
    .description('start a second VM that goes on from where one is, or from a checkpoint')
    .option('--name <name>', 'name of the clone (default: that of the VM and -clone)')
    .option('--in-flight', 'disk requests in flight become part of the clone')
    .addOption(
      new Option('--compress <codec>', 'compression of memory (default: lz4)').choices(codecs),
    )
    .option(
      '--limit <rate>',
      'load no more than that a second in the background; with --to: store no more',
      parseRate,
    )
    .option('--mount <dir>', 'serve the clone as files there while it runs')
    .option('--mount-options <list>', 'as -o of ckptfs mount: rw, say')
    .option('--detach', 'run in the background; returns when all memory is loaded')
    .option('--no-wait', 'with --detach: return when the guest runs')
    .option('--exit-code', 'end with 0 if the guest powers off with reason 0, else with 1')
    .option('--to <dest>', 'copy the VM to another store: a directory, or ssh://host/path')
    .option('--start', 'with --to: let the clone run there, in the background')
    .option(
      '--threshold <size>',
      'with --to: the last round when no more than that is left (default: 16M)',
      (text: string) => parseSize(text),
    )
    .option(
      '--max-rounds <n>',
      'with --to: at most so many before the last (default: 30)',
      (text: string) => parseCount(text, 'number of rounds', 1),
    )
    .addOption(
      new Option(
        '--on-divergence <policy>',
        'with --to: when rounds leave no less than before, go on with the last, or stop (default: go)',
      ).choices(['go', 'stop']),
    )
    .addHelpText(
      'after',
      '\nA running VM is checkpointed live for it, and goes on. The two share what is stored, and nothing' +
        '\nthat either writes; the guest of the clone is told that it is one, and takes fresh random numbers.' +
        '\nWith --to a running VM is copied in rounds: all memory, then what was written meanwhile, until little is left.' +
        '\nThe clone is a VM of the other store then, with disks of its own and one checkpoint that it goes on from.' +
        '\nCtrl-C cancels, and leaves nothing on either side.',
    );
  addSshOptions(command).action(
    withContext(async (context, options: CloneCommandOptions, source: string) => {
      refuseMixed(options);
      const { to } = options;
      if (to !== undefined) {
        const { cloneThere } = await import('./clone_to.js');
        return cloneThere(context, { ...options, to }, source);
      }
      return restoring(context, options, () => cloneProcess(context, source, options));
    }),
  );
}

/** Options that do not go with, or without, --to. USAGE. */
function refuseMixed(options: CloneCommandOptions): void {
  const { to, start, threshold, maxRounds, onDivergence, ssh, remoteProgram } = options;
  const { mount, mountOptions, detach, exitCode, wait } = options;
  const there = start ?? threshold ?? maxRounds ?? onDivergence ?? ssh ?? remoteProgram;
  if (to === undefined && there !== undefined) {
    throw new CkptError(
      'USAGE',
      '--start, --threshold, --max-rounds, --on-divergence, --ssh and --remote-program are for a clone elsewhere; give --to too',
    );
  }
  const here = mount ?? mountOptions ?? detach ?? exitCode ?? (wait ? undefined : false);
  if (to !== undefined && here !== undefined) {
    throw new CkptError(
      'USAGE',
      '--mount, --mount-options, --detach, --no-wait and --exit-code are for a clone here; leave them out with --to',
    );
  }
}

async function cloneProcess(
  context: Context,
  source: string,
  options: CloneCommandOptions,
): Promise<number> {
  const { cloneVm } = await import('../vmm/clone.js');
  const { runProcess } = await import('./foreground.js');
  const store = await context.openStore();
  const { vm, entry, taken } = await cloneVm(store, source, {
    name: options.name,
    checkpoint: {
      codec: options.compress,
      drain: options.inFlight === true ? 'in-flight' : 'drain',
    },
    limitBytesPerSecond: options.limit,
    signal: context.signal,
  });
  const from = `${entry.vm}@${entry.name}`;
  context.output.status(
    { vm: vm.name, event: 'cloned', checkpoint: from, ...(taken && { pauseUs: taken.pauseUs }) },
    `ckptfs: ${vm.name} is a clone of ${from}`,
  );
  return runProcess(context, store, vm, options);
}
