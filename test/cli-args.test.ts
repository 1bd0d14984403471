/** The command line: sizes, disks, configuration, output, exit codes. Nothing here runs a guest. */
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { appendFile, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t, { type Test } from 'tap';
import { Store } from '../src/checkpoint/store.js';
import { parseDisk } from '../src/cli/disk_option.js';
import { formatFields, formatTable } from '../src/cli/output.js';
import { buildProgram } from '../src/cli/program.js';
import { readInput } from '../src/cli/run.js';
import { formatSize, formatTime, formatUs, parseCount, parseSize } from '../src/cli/sizes.js';
import { CkptError, systemError, toCkptError } from '../src/errors.js';
import { makeRedo, publish } from './support/checkpoints.js';

// Some hundred short-lived processes.
t.setTimeout(300_000);

const main = fileURLToPath(new URL('../src/cli/main.js', import.meta.url));

async function scratch(t: Test): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'ckptfs-cli-'));
  t.teardown(() => rm(directory, { recursive: true, force: true }));
  return directory;
}

/** Runs the command with no store but the one given. */
function ckptfs(args: string[], environment: NodeJS.ProcessEnv = {}) {
  const { status, stdout, stderr } = spawnSync(process.execPath, [main, ...args], {
    encoding: 'utf8',
    env: {
      ...process.env,
      DEBUG: undefined,
      CKPTFS_STORE: undefined,
      XDG_DATA_HOME: '/nonexistent',
      ...environment,
    },
    timeout: 60_000,
  });
  const objects = () =>
    stdout
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line) as Record<string, unknown>);
  return { status, stdout, stderr, objects };
}

/** One line on stderr, nothing on stdout, no stack. */
function isClearFailure(t: Test, run: ReturnType<typeof ckptfs>, status: number, what: RegExp) {
  t.equal(run.status, status);
  t.equal(run.stdout, '');
  t.match(run.stderr, what);
  t.match(run.stderr, /^ckptfs: [^\n]+\n$/, 'one line');
}

t.test('sizes', async (t) => {
  for (const [text, bytes] of [
    ['0', 0],
    ['512', 512],
    ['1K', 1024],
    ['512M', 512 * 2 ** 20],
    ['2g', 2 * 2 ** 30],
    ['3T', 3 * 2 ** 40],
  ] as const) {
    t.equal(parseSize(text), bytes, text);
  }
  for (const text of [
    '',
    'M',
    '-1',
    '1.5G',
    '1 M',
    '1MB',
    '1MiB',
    '0x10',
    '1e3',
    ' 1',
    '9007199254740993',
    '9999T9',
    '99999999999T',
  ]) {
    t.throws(() => parseSize(text), { code: 'USAGE' }, JSON.stringify(text));
  }
  t.equal(parseCount('2', 'count', 1), 2);
  for (const text of ['0', '-1', '', '1.5', 'two', '9999999999']) {
    t.throws(() => parseCount(text, 'count', 1), { code: 'USAGE' }, text);
  }
  for (const [bytes, text] of [
    [0, '0 B'],
    [1023, '1023 B'],
    [1024, '1 KiB'],
    [1536, '1.5 KiB'],
    [10_000, '9.77 KiB'],
    [512 * 2 ** 20, '512 MiB'],
    [2 ** 30 - 1, '1 GiB'],
    [1023 * 2 ** 20, '1023 MiB'],
    [5 * 2 ** 50, '5120 TiB'],
  ] as const) {
    t.equal(formatSize(bytes), text);
  }
  for (const [us, text] of [
    [0, '0 µs'],
    [999, '999 µs'],
    [1234, '1.23 ms'],
    [12_345, '12.3 ms'],
    [999_499, '999 ms'],
    [999_500, '1 s'],
    [61_234_567, '61.2 s'],
  ] as const) {
    t.equal(formatUs(us), text);
  }
  t.equal(formatTime(new Date('2026-11-20T10:15:00.999Z')), '2026-11-20 10:15:00Z');
});

t.test('disks', async (t) => {
  t.same(parseDisk('a.img'), { path: 'a.img' });
  t.same(parseDisk('/x/a.img,id=root,mode=persistent,readonly'), {
    path: '/x/a.img',
    id: 'root',
    mode: 'persistent',
    readonly: true,
  });
  for (const text of [
    '',
    ',id=x',
    'a,',
    'a,id',
    'a,id=',
    'a,mode=x',
    'a,readonly=1',
    'a,size=1',
    'a,,readonly',
  ]) {
    t.throws(() => parseDisk(text), { code: 'USAGE', message: /FILE\[,id/ }, JSON.stringify(text));
  }
});

t.test('options go before the configuration file, whose paths are relative to it', async (t) => {
  const directory = await scratch(t);
  const config = join(directory, 'vm.json');
  await writeFile(
    config,
    JSON.stringify({ kernel: 'k', cpus: 1, disks: [{ path: 'd.img' }, { path: '/e' }] }),
  );
  t.same(await readInput({ config, cpus: 4, append: 'quiet', name: 'x', memory: 1024 }), {
    kernel: join(directory, 'k'),
    cpus: 4,
    append: 'quiet',
    name: 'x',
    memoryBytes: 1024,
    disks: [{ path: join(directory, 'd.img') }, { path: '/e' }],
  });
  t.same(await readInput({ config, disk: [{ path: 'f' }] }), {
    kernel: join(directory, 'k'),
    cpus: 1,
    disks: [{ path: 'f' }],
  });
  t.same(await readInput({ name: 'x' }), { name: 'x' });
  await t.rejects(readInput({ config: join(directory, 'none') }), { code: 'NOT_FOUND' });
  await t.rejects(readInput({ config: directory }), { code: 'USAGE' });
  for (const text of ['{', '[]', '1', 'null']) {
    await writeFile(config, text);
    await t.rejects(readInput({ config }), { code: 'USAGE' }, text);
  }
});

t.test('tables and fields', async (t) => {
  const rows = [
    { name: 'a', size: 5 },
    { name: 'longer', size: 12345 },
  ];
  const columns = [
    { title: 'NAME', value: (row: (typeof rows)[number]) => row.name },
    { title: 'N', value: (row: (typeof rows)[number]) => String(row.size), right: true },
  ];
  const table = { columns, brief: () => '', none: '' };
  t.equal(formatTable(rows, table), 'NAME        N\na           5\nlonger  12345');
  t.equal(
    formatFields([
      ['a', '1'],
      ['long name', '2'],
      ['left out', undefined],
    ]),
    'a:         1\nlong name: 2',
  );
});

t.test('every failure gets a code, a remedy and an exit code', async (t) => {
  const failure = (code: string) => Object.assign(new Error(`${code}: it failed`), { code });
  for (const [errno, code, exitCode] of [
    ['ENOENT', 'NOT_FOUND', 10],
    ['ENOSPC', 'NO_SPACE', 1],
    ['EEXIST', 'EXISTS', 1],
    ['EACCES', 'IO', 1],
    ['EIO', 'IO', 1],
  ] as const) {
    const error = systemError(failure(errno), 'cannot write x');
    t.match(error, { code, exitCode, message: /^cannot write x: .+; / }, errno);
  }
  const known = new CkptError('BUSY', 'x');
  t.equal(systemError(known, 'y'), known);
  t.equal(known.exitCode, 11);
  t.equal(toCkptError(new TypeError('undefined is not a function')).code, 'INTERNAL');
  t.equal(toCkptError('text').code, 'INTERNAL');
  t.equal(new CkptError('DAMAGED', 'x').exitCode, 4);
  t.equal(new CkptError('CANCELLED', 'x').exitCode, 130);
  t.equal(new CkptError('USAGE', 'x').exitCode, 2);
});

t.test('every command has help and the documented names', async (t) => {
  const program = buildProgram();
  const names = program.commands.map((command) => command.name());
  const documented =
    'run list info console pause resume retry stop rm checkpoint restore clone checkpoints show diff verify export prune compact backup protect recover receive disk mount umount doctor version completion man';
  t.same([...names].sort(), documented.split(' ').sort());
  const all = program.commands.flatMap((command) => [command, ...command.commands]);
  for (const command of all) t.ok(command.description(), command.name());
  const help = ckptfs(['run', '--help']);
  t.equal(help.status, 0);
  t.match(help.stdout, /--exit-code[\s\S]*--store/);
  t.equal(ckptfs(['--help']).status, 0);
  t.match(ckptfs(['version', '--json']).objects(), [{ type: 'result', version: /^\d+\./ }]);
});

t.test('wrong usage ends with 2 and one line', async (t) => {
  for (const args of [
    ['frobnicate'],
    ['list', '--frob'],
    ['list', 'extra'],
    ['info'],
    ['run', '--memory', '5x'],
    ['run', '--cpus', '0'],
    ['run', '--disk', 'a,frob'],
    ['run', '--trace', 'magic'],
    ['run', '--checkpoint-every', '10'],
    ['run', '--checkpoint-every', '0m'],
    ['run', '--checkpoint-keep', '0'],
    ['checkpoint', 'vm1', '--compress', 'zip'],
    ['checkpoint', 'vm1', '--name', '../x'],
    ['checkpoint', 'vm1', '--live', '--suspend'],
    ['checkpoint', 'vm1', '--drain', '--in-flight'],
    ['checkpoint', 'vm1', '--full', '--incremental'],
    ['checkpoint', 'vm1', '--limit', '0'],
    ['verify'],
    ['verify', 'vm1@x', '--all'],
    ['restore', 'vm1@x', '--lazy', '--eager'],
    ['prune', 'vm1', '--keep-last', '0'],
    ['export', 'vm1@x'],
    ['export', 'vm1@x', '--format', 'vmdk', '-o', 'x'],
    ['backup', 'vm1'],
    ['backup', '--to', '/x'],
    ['backup', 'vm1', '--all', '--to', '/x'],
    ['backup', 'vm1', '--to', '/x', '--live', '--suspend'],
    ['backup', 'vm1', '--to', '/x', '--checkpoint', 'c', '--name', 'd'],
    ['backup', 'vm1', '--to', '/x', '--disks', 'none'],
    ['recover', '/x'],
    ['recover', '/x', 'vm1@x', '--all'],
    ['recover', '/x', 'vm1@x', '--expect', 'y'],
    ['recover', '/x', 'vm1@x', '--test', '--expect', '('],
    ['recover', 'http://x/y', 'vm1@x'],
    ['recover', 'ssh://-x/y', 'vm1@x'],
    ['completion', 'tcsh'],
    ['disk', 'frobnicate'],
    ['disk', 'create', 'x'],
  ]) {
    const run = ckptfs(args);
    t.test(args.join(' '), async (t) => isClearFailure(t, run, 2, /; |choices|Allowed/));
  }
  const json = ckptfs(['info', '--json']);
  t.equal(json.status, 2);
  t.match(json.objects(), [{ type: 'error', code: 'USAGE', exitCode: 2, message: String }]);
  t.notOk(existsSync('/nonexistent'), 'none of them has made a store');
});

t.test('a store that is not there, and one that is something else', async (t) => {
  const directory = await scratch(t);
  isClearFailure(
    t,
    ckptfs(['list', '--store', join(directory, 'none')]),
    10,
    /no store at .*--store/,
  );
  isClearFailure(t, ckptfs(['list'], { CKPTFS_STORE: join(directory, 'none') }), 10, /no store/);
  await writeFile(join(directory, 'x'), '');
  isClearFailure(t, ckptfs(['list', '--store', directory]), 2, /not a ckptfs store/);
});

t.test('listings and lookups of a store without a running VM', async (t) => {
  const store = await Store.open(join(await scratch(t), 'store'), { create: true });
  const run = (...args: string[]) => ckptfs([...args, '--store', store.root]);
  t.match(run('list'), { status: 0, stdout: '', stderr: /no VMs/ });
  t.match(run('list', '--json'), { status: 0, stdout: '' });
  await store.createVm('vm1');
  await store.writeConfig('vm1', { memoryBytes: 2 ** 29, cpus: 2 });
  await makeRedo(store, 'vm1');
  const { id } = await publish(store, 'vm1', 'one');

  t.equal(
    run('list').stdout,
    'VM   STATE    PID   MEMORY  CPUS  CHECKPOINTS\nvm1  stopped    -  512 MiB     2            1\n',
  );
  t.equal(run('list', '-q').stdout, 'vm1\n');
  t.same(run('list', '--json').objects(), [
    { type: 'result', vm: 'vm1', state: 'stopped', memoryBytes: 2 ** 29, cpus: 2, checkpoints: 1 },
  ]);
  t.match(run('info', 'vm1').stdout, /state: +stopped/);
  t.match(
    run('checkpoints').stdout,
    new RegExp(`vm1@one +${id.slice(0, 12)} +2.*1 MiB +100 B +1.23 ms`),
  );
  t.match(run('checkpoints', 'vm1', '--json').objects(), [
    { type: 'result', vm: 'vm1', name: 'one', id, pauseUs: 1234.5, storedBytes: 100 },
  ]);
  t.equal(run('checkpoints', '-q').stdout, 'vm1@one\n');
  t.match(run('show', 'vm1@latest', '-v').stdout, /device-state\.json/);
  t.match(run('show', id.slice(0, 6), '--json').objects(), [
    { type: 'result', id, vm: 'vm1', name: 'one' },
  ]);

  for (const args of [
    ['info', 'vm9'],
    ['checkpoints', 'vm9'],
    ['show', 'vm1@two'],
    ['restore', 'vm1@two'],
    ['verify', 'vm9@one'],
    ['rm', 'vm9'],
    ['rm', 'vm1@two'],
    ['pause', 'vm9'],
    ['checkpoint', 'vm1'],
    ['console', 'vm1'],
    ['stop', 'vm1'],
  ]) {
    isClearFailure(t, run(...args), 10, /vm[19]/);
  }
  isClearFailure(t, run('show', 'abc'), 2, /not a checkpoint/);
  isClearFailure(t, run('restore', 'vm1'), 2, /VM@NAME/);

  await appendFile(join(store.checkpointDirectory('vm1', 'one'), 'manifest.json'), ' ');
  isClearFailure(t, run('show', 'vm1@one'), 4, /damaged/);
  t.match(run('checkpoints').stdout, /damaged/);
  const verified = run('verify', '--all', '--json');
  t.equal(verified.status, 4);
  t.match(verified.objects(), [
    { type: 'result', vm: 'vm1', name: 'one', ok: false, damage: [{ file: 'manifest.json' }] },
  ]);
  t.match(run('verify', 'vm1@one'), { status: 4, stdout: /vm1@one: DAMAGED[\s\S]*manifest\.json/ });
  t.match(run('rm', 'vm1@one'), { status: 0, stdout: 'removed vm1@one\n' });
  t.match(run('verify', '--all'), { status: 0, stdout: '' });
});

t.test('prune says what it keeps and why, and removes the rest', async (t) => {
  const store = await Store.open(join(await scratch(t), 'store'), { create: true });
  const run = (...args: string[]) => ckptfs([...args, '--store', store.root]);
  await store.createVm('vm1');
  await makeRedo(store, 'vm1');
  const times = ['2026-01-01T10:00:00', '2026-01-02T10:00:00', '2026-01-02T11:00:00'];
  for (const [i, time] of times.entries()) {
    await publish(store, 'vm1', `c${i}`, { createdAt: `${time}.000Z` });
  }
  await appendFile(join(store.checkpointDirectory('vm1', 'c0'), 'manifest.json'), ' ');
  isClearFailure(t, run('prune', 'vm1'), 2, /--keep-last/);
  isClearFailure(t, run('prune', 'vm9', '--keep-last', '1'), 10, /vm9/);
  const dry = run('prune', 'vm1', '--keep-daily', '1', '--dry-run');
  t.match(dry, { status: 0, stdout: /c2 .* keep +daily\nvm1@c1 .* would be removed\n/ });
  t.match(dry.stdout, /c0 .* keep +damaged/);
  t.equal(run('checkpoints', '-q').stdout.split('\n').length, 4);
  const done = run('prune', 'vm1', '--keep-daily', '1', '--keep-last', '1', '--json').objects();
  const byName = new Map(done.map((row) => [row.name, row]));
  t.match(byName.get('c2'), { type: 'result', reasons: ['last', 'daily'], removed: false });
  t.match(byName.get('c1'), { reasons: [], removed: true });
  t.equal(run('checkpoints', 'vm1', '-q').stdout.split('\n').length, 3);
  t.match(run('prune', 'vm1', '--keep-last', '1', '-q').stdout, /vm1@c2 keep/);
});

t.test('a reader that has seen enough is no failure', async (t) => {
  const store = await Store.open(join(await scratch(t), 'store'), { create: true });
  for (let number = 0; number < 30; number++) await store.createVm(`vm${number}`);
  const { status, stderr } = spawnSync(
    '/bin/sh',
    ['-c', `"$0" "$1" list -q --store "$2" | head -n 1`, process.execPath, main, store.root],
    { encoding: 'utf8' },
  );
  t.same({ status, stderr }, { status: 0, stderr: '' });
});

t.test('completion names every command', async (t) => {
  for (const shell of ['bash', 'zsh', 'fish']) {
    const { status, stdout } = ckptfs(['completion', shell]);
    t.equal(status, 0);
    t.match(stdout, /checkpoint/);
    t.match(stdout, /exit-code/);
  }
  const script = ckptfs(['completion', 'bash']).stdout;
  const complete = (words: string[]) =>
    spawnSync(
      'bash',
      [
        '-c',
        `${script}\nCOMP_WORDS=("$@"); COMP_CWORD=$(($#-1)); COMP_LINE="$*"; COMP_POINT=\${#COMP_LINE}; _ckptfs; echo "\${COMPREPLY[@]}"`,
        'x',
        ...words,
      ],
      { encoding: 'utf8' },
    ).stdout.trim();
  t.equal(complete(['ckptfs', 'chec']), 'checkpoint checkpoints');
  t.equal(complete(['ckptfs', 'run', '--exit']), '--exit-code');
});

t.test('a directory in the place of a store file does not crash a listing', async (t) => {
  const store = await Store.open(join(await scratch(t), 'store'), { create: true });
  await mkdir(store.configFile('vm1'), { recursive: true });
  t.match(ckptfs(['list', '--store', store.root]), { status: 0, stdout: /vm1 +stopped/ });
});
