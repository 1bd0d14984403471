/** The manual pages and the completion: made from the program, so they name all of it, and tools take them. */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Command } from 'commander';
import t from 'tap';
import { buildProgram } from '../src/cli/program.js';
import { parseMountOptions } from '../src/fs/mount.js';
import { exitCodes } from '../src/errors.js';
import { temporary } from './fs-harness.js';
import { makeRedo, publish, storeWithVm } from './support/checkpoints.js';
import { main } from './support/cli.js';
import { Shell, tool } from './support/tools.js';
import { until } from './support/guests.js';

t.setTimeout(120_000);

const absent = (program: string) =>
  spawnSync('sh', ['-c', 'command -v "$0"', program]).status !== 0 && `no ${program}`;

/** A command and all below it, by full name. */
function everyCommand(command: Command, above = ''): [string, Command][] {
  const path = `${above}${command.name()}`;
  return [[path, command], ...command.commands.flatMap((one) => everyCommand(one, `${path} `))];
}

t.test('manual pages', async (t) => {
  const directory = join(await temporary(t), 'man');
  await tool(process.execPath, main, 'man', '-o', directory);
  const pages = ['ckptfs.1', 'mount.fuse.ckptfs.8'].map((name) => join(directory, name));
  const [ckptfs = '', helper = ''] = pages;

  await t.test('are clean', { skip: absent('mandoc') || absent('groff') }, async (t) => {
    for (const page of pages) {
      t.equal(await tool('mandoc', '-T', 'lint', '-W', 'warning', page), '');
      t.equal(await tool('sh', '-c', 'groff -man -ww -z -T utf8 "$0" 2>&1', page), '');
    }
    const broken = join(directory, 'broken.1');
    await writeFile(broken, '.SH NAME\nx\n.XY\n');
    await t.rejects(
      tool('mandoc', '-T', 'lint', '-W', 'warning', broken),
      'mandoc can find something',
    );
  });

  await t.test('name every command, option and exit code', { skip: absent('man') }, async (t) => {
    const show = (page: string) =>
      tool('sh', '-c', 'MANWIDTH=200 man -P cat -l "$0" | col -bx', page);
    const text = await show(ckptfs);
    for (const [path, command] of everyCommand(buildProgram()).slice(1)) {
      const usage = `\n   ckptfs ${path.replace('ckptfs ', '')} ${command.usage()}\n`;
      const at = text.indexOf(usage.trimEnd());
      t.ok(at > 0, path);
      const section = text.slice(at + 1, text.indexOf('\n   ckptfs ', at + 1));
      for (const { flags, hidden } of command.options) {
        t.equal(section.includes(`\n       ${flags}`), !hidden, `${path} ${flags}`);
      }
    }
    for (const code of Object.values(exitCodes)) t.match(text, new RegExp(`^ {7}${code} `, 'm'));
    for (const title of ['EXIT STATUS', 'ENVIRONMENT', 'FILES', 'EXAMPLES', 'SEE ALSO']) {
      t.match(text, `\n${title}\n`);
    }
    t.match(text, 'ckptfs restore web@before --lazy', 'hyphens are those that can be copied');

    const options = await show(helper);
    let told = '';
    try {
      parseMountOptions('?');
    } catch (error) {
      told = /there are: (.*)/.exec((error as Error).message)?.[1] ?? '';
    }
    const names = told.split(', ');
    t.ok(names.length > 5, 'found the options');
    for (const name of names) t.match(options, new RegExp(`^ {7}(.*, )?${name}`, 'm'), name);
  });
});

t.test('bash completes names of VMs and checkpoints', { skip: absent('script') }, async (t) => {
  const base = await temporary(t);
  const store = await storeWithVm(t, base);
  await store.createVm('web');
  await makeRedo(store, 'web');
  for (const name of ['first', 'second']) await publish(store, 'web', name);
  const other = await storeWithVm(t, join(base, 'other'));
  await other.createVm('mail');
  const home = join(base, 'home');
  await mkdir(home);
  const shell = await Shell.open(home, store.root, undefined);
  // The line that it has completed to is printed, not run.
  const script = await shell.run('ckptfs completion bash');
  await writeFile(join(home, 'bashrc'), `${script}complete -o default -F _ckptfs echo\nPS1='> '\n`);

  // As it is typed on a terminal: readline has its own idea of words.
  const bash = `bash --noprofile --rcfile ${home}/bashrc -i`;
  const terminal = spawn('script', ['-qec', bash, '/dev/null'], {
    env: { ...shell.environment, TERM: 'dumb' },
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  const exited = once(terminal, 'exit');
  let text = '';
  terminal.stdout.setEncoding('utf8').on('data', (piece: string) => (text += piece));
  await until('a prompt', () => text.endsWith('> '));
  const complete = async (typed: string): Promise<string> => {
    text = '';
    terminal.stdin.write(`echo ${typed}\t\n`);
    await until(`what ${typed} comes to`, () => text.endsWith('> '));
    return text.split('\n').at(-2)?.trim() ?? '';
  };
  for (const [typed, completed] of [
    ['compl', 'completion'],
    ['info w', 'info web'],
    ['run --exit', 'run --exit-code'],
    ['show we', 'show web@'],
    ['show web@se', 'show web@second'],
    ['diff web@first web@s', 'diff web@first web@second'],
    ['rm web@f', 'rm web@first'],
    [`info --store ${other.root} ma`, `info --store ${other.root} mail`],
    ['info ma', 'info ma'],
  ] as const) {
    t.equal(await complete(typed), completed, typed);
  }
  terminal.stdin.end('exit\n');
  await exited;
});
