/** ckptfs recover: a VM goes on here from a checkpoint of another store, or checkpoints are proven to allow that. */
import type { Command } from 'commander';
import type { Store } from '../checkpoint/store.js';
import { CkptError, exitCodes } from '../errors.js';
import type { SshDestination } from '../transfer/dial.js';
import type { Proof } from '../transfer/prove.js';
import { type Context, withContext } from './context.js';
import { Progress } from './progress.js';
import { refuseBoth, type RestoreOptions, restoring, vmOptionsOf } from './restore.js';
import { formatUs, parseInterval, parseRate } from './sizes.js';
import { addSshOptions, destinationHelp, type SshOptions, sshOptionsOf } from './ssh_options.js';

interface Options extends RestoreOptions, SshOptions {
  replace?: boolean;
  test?: boolean;
  all?: boolean;
  expect?: string;
  type?: string;
  timeout?: number;
}

export function registerRecover(program: Command): void {
  const command = program
    .command('recover')
    .argument('<dest>', destinationHelp)
    .argument('[ckpt]', 'the checkpoint there')
    .description('let a VM go on here from a checkpoint that "backup" has made')
    .option('--name <name>', 'name of the VM (default: the one the checkpoint was taken of)')
    .option('--replace', 'in the place of a VM of that name here, whose disks are lost')
    .option('--lazy', 'the guest runs before its memory is loaded (the default)')
    .option('--eager', 'all memory is loaded first; over ssh, all is copied first')
    .option('--limit <rate>', 'load no more than that a second in the background', parseRate)
    .option('--mount <dir>', 'serve the VM as files there while it runs')
    .option('--mount-options <list>', 'as -o of ckptfs mount: rw, say')
    .option('--detach', 'run in the background; returns when all memory is loaded')
    .option('--no-wait', 'with --detach: return when the guest runs')
    .option('--exit-code', 'end with 0 if the guest powers off with reason 0, else with 1')
    .option('--test', 'only prove that it can be recovered: it runs isolated, and nothing is kept')
    .option('--all', 'with --test: every checkpoint there')
    .option('--expect <regexp>', 'with --test: what the console has to show')
    .option('--type <text>', 'with --test: typed on the console first; \\n is Enter')
    .option(
      '--timeout <interval>',
      'with --test: how long each may take (default: 60s)',
      parseInterval,
    )
    .addHelpText(
      'after',
      '\nThe VM lives in the local store from then on: its redo logs and new checkpoints are here.' +
        '\nOver ssh it runs before its checkpoint has been copied; "ckptfs info" shows how much has come.' +
        '\nWith --test: exit code 0 when all are proven, 3 when some are, 1 when none is.',
    );
  addSshOptions(command).action(withContext(recover));
}

async function recover(
  context: Context,
  options: Options,
  dest: string,
  reference?: string,
): Promise<number | undefined> {
  refuse(options, reference);
  if (options.test === true) return test(context, options, dest, reference);
  return restoring(context, options, () => recoverHere(context, options, dest, reference ?? ''));
}

function refuse(options: Options, reference: string | undefined): void {
  const { test: isTest = false, all = false, expect, type, timeout } = options;
  const when = (wrong: boolean, message: string): void => {
    if (wrong) throw new CkptError('USAGE', message);
  };
  refuseBoth(options);
  when(
    !isTest && (all || (expect ?? type ?? timeout) !== undefined),
    '--all, --expect, --type and --timeout are for a proof; give --test too',
  );
  when(
    all === (reference !== undefined),
    'recover needs one thing; name a checkpoint, or give --test --all',
  );
}

/** The local store, made if need be; refuses a VM of that name unless it is to be replaced. */
async function admit(context: Context, options: Options, vm: string): Promise<Store> {
  const { pathExists } = await import('../checkpoint/files.js');
  // Not before: without a DEST nothing is made here.
  const store = await context.openStore({ create: true });
  const name = options.name ?? vm;
  // What has only been received has checkpoints and no configuration.
  if (options.replace !== true && (await pathExists(store.configFile(name)))) {
    throw new CkptError(
      'EXISTS',
      `VM ${name} exists here, and its disks would be replaced; give --replace, or another --name`,
      { vm: name },
    );
  }
  return store;
}

async function recoverHere(
  context: Context,
  options: Options,
  dest: string,
  reference: string,
): Promise<number> {
  const { parseDestination } = await import('../transfer/destination.js');
  const destination = parseDestination(dest);
  return destination.kind === 'ssh' && options.eager !== true
    ? recoverLazily(context, options, destination, reference)
    : recoverWhole(context, options, dest, reference);
}

/** The VM runs before its checkpoint has come. */
async function recoverLazily(
  context: Context,
  options: Options,
  destination: SshDestination,
  reference: string,
): Promise<number> {
  const { dial } = await import('../transfer/dial.js');
  // The far end starts while the rest of this command is loaded.
  const reached = { destination, options: sshOptionsOf(options) };
  const dialled = dial(destination, reached.options);
  const { bringLazily } = await import('../transfer/recover.js');
  const loading = Promise.all([import('../vmm/vm.js'), import('./foreground.js')]);
  loading.catch(() => undefined); // met below
  const { signal } = context;
  let store: Store | undefined;
  const { arriving, ...entry } = await bringLazily(
    { ...reached, dialled },
    reference,
    async ({ vm }) => (store = await admit(context, options, vm)),
    { signal, onNews: (text) => context.output.note(`ckptfs: ${text}`) },
  );
  if (!store) throw new Error('no store was asked for');
  const [{ Vm }, { runProcess }] = await loading;
  try {
    const vm = await Vm.restore(store, entry, { ...vmOptionsOf(options), arriving });
    return await runProcess(context, store, vm, options);
  } finally {
    await arriving?.end();
  }
}

async function recoverWhole(
  context: Context,
  options: Options,
  dest: string,
  reference: string,
): Promise<number> {
  const { bring } = await import('../transfer/recover.js');
  const { openTarget } = await import('../transfer/open.js');
  const { Vm } = await import('../vmm/vm.js');
  const { runProcess } = await import('./foreground.js');
  const { signal } = context;
  const { store, entry } = await (async () => {
    await using target = await openTarget(dest, { signal, ...sshOptionsOf(options) });
    const store = await context.openStore({ create: true });
    using progress = await Progress.begin(context.output, `fetching ${reference}`, 'bytes');
    const entry = await bring(target, reference, store, {
      signal,
      onProgress: (done, total) => progress.update(done, total),
    });
    return { store, entry };
  })();
  await admit(context, options, entry.manifest?.vm ?? entry.vm);
  const vm = await Vm.restore(store, entry, vmOptionsOf(options));
  return runProcess(context, store, vm, options);
}

async function test(
  context: Context,
  options: Options,
  dest: string,
  reference: string | undefined,
): Promise<number> {
  const { bring, choose } = await import('../transfer/recover.js');
  const { openTarget } = await import('../transfer/open.js');
  const { prove } = await import('../transfer/prove.js');
  const { withScratchStore } = await import('../transfer/scratch.js');
  const { signal } = context;
  const expect = options.expect === undefined ? undefined : expressionOf(options.expect);
  const proofs: Proof[] = [];
  await using target = await openTarget(dest, { signal, ...sshOptionsOf(options) });
  const listed = await target.list();
  const chosen = reference === undefined ? listed : [choose(listed, reference)];
  await withScratchStore(async (scratch) => {
    for (const { vm, name } of chosen) {
      const of = { vm, name };
      const { directory } = await bring(target, `${vm}@${name}`, scratch, { signal });
      const proof = await prove(directory, of, scratch, {
        signal,
        ...(expect === undefined ? {} : { expect }),
        ...(options.type === undefined ? {} : { type: options.type.replaceAll('\\n', '\n') }),
        ...(options.timeout === undefined ? {} : { timeoutMs: options.timeout * 1000 }),
      });
      proofs.push(proof);
      tellProof(context, proof);
    }
  });
  if (chosen.length === 0) context.output.note('no checkpoints to prove');
  const proven = proofs.filter(({ ok }) => ok).length;
  if (proven === proofs.length) return exitCodes.done;
  return proven > 0 ? exitCodes.partly : exitCodes.failed;
}

function expressionOf(text: string): RegExp {
  try {
    return new RegExp(text, 'm');
  } catch (error) {
    throw new CkptError('USAGE', `--expect: ${(error as Error).message}; correct it`);
  }
}

function tellProof(context: Context, proof: Proof): void {
  const { vm, name, ok, why, firstInstructionMs, completeMs } = proof;
  const first =
    firstInstructionMs === null
      ? ''
      : `, first instruction after ${formatUs(firstInstructionMs * 1000)}`;
  const complete =
    completeMs === null ? '' : `, memory complete after ${formatUs(completeMs * 1000)}`;
  const text = ok
    ? `${vm}@${name}: recoverable${first}${complete}`
    : `${vm}@${name}: NOT RECOVERABLE: ${why ?? ''}`;
  context.output.result(proof, text, ok ? undefined : text);
}
