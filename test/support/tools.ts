/**
 * Programs from elsewhere, at work on a mount: each with a limit, in a home of its own, and with `ckptfs` on its
 * PATH. CKPTFS_TRANSPORTS=libfuse3,fuse-native runs the tests that use them over each of those transports; by
 * default they run over the one that a mount takes by itself.
 */
import { execFile, spawnSync } from 'node:child_process';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import type { Test } from 'tap';
import { eventually, noFuse } from '../fs-harness.js';
import { main, mountStore, type withStore } from './cli.js';

const run = promisify(execFile);
const toolLimitMs = 120_000;
const maxOutputBytes = 64 << 20;
const root = fileURLToPath(new URL('../../..', import.meta.url));

/** Why a test cannot run here: the first of these programs that is missing; false when all are there. */
export function missing(...programs: string[]): string | false {
  const absent = programs.find(
    (program) => spawnSync('sh', ['-c', 'command -v "$0"', program]).status !== 0,
  );
  return absent === undefined ? noFuse() : `no ${absent}`;
}

/** Transports to test over; undefined is the default one. */
export function transportsUnderTest(): (string | undefined)[] {
  const named = (process.env.CKPTFS_TRANSPORTS ?? '').split(',').filter((name) => name !== '');
  return named.length > 0 ? named : [undefined];
}

/** Options of `ckptfs mount` that ask for the transport. */
export function transportOptions(transport: string | undefined): string[] {
  return transport === undefined ? [] : ['--transport', transport];
}

/** Mounts the store over the transport for one test, and sees to it that the mount can be taken away. */
export async function mounted(
  t: Test,
  cli: Awaited<ReturnType<typeof withStore>>,
  transport: string | undefined,
  use: (directory: string) => Promise<void>,
): Promise<void> {
  const directory = await mountStore(t, cli, ...transportOptions(transport));
  await use(directory);
  // The kernel tells the server of the last close in its own time.
  await eventually(t, 'it can be unmounted', async () => {
    return (await cli.ckptfs('umount', directory)).status === 0;
  });
}

/** Runs a program to its end; rejects with what it said unless it ends with 0. */
export async function tool(file: string, ...args: string[]): Promise<string> {
  const { stdout } = await run(file, args, {
    timeout: toolLimitMs,
    maxBuffer: maxOutputBytes,
    env: { ...process.env, LC_ALL: 'C', TZ: 'UTC' },
  });
  return stdout;
}

/** A shell whose home is a directory of the test and whose `ckptfs` works on the test's store. */
export class Shell {
  private constructor(
    readonly home: string,
    readonly environment: NodeJS.ProcessEnv,
  ) {}

  static async open(home: string, store: string, transport: string | undefined): Promise<Shell> {
    const bin = join(home, 'bin');
    await mkdir(bin, { recursive: true });
    const mountOptions = transportOptions(transport).join(' ');
    const ckptfs = `exec '${process.execPath}' '${main}' "$@"`;
    await writeFile(
      join(bin, 'ckptfs'),
      `#!/bin/sh\n[ "$1" != mount ] || { shift; set -- mount ${mountOptions} "$@"; }\n${ckptfs}\n`,
      { mode: 0o755 },
    );
    return new Shell(home, {
      ...process.env,
      LC_ALL: 'C',
      TZ: 'UTC',
      DEBUG: undefined,
      HOME: home,
      CKPTFS_STORE: store,
      PATH: `${bin}${delimiter}${process.env.PATH ?? ''}`,
    });
  }

  /** Runs a script in the home; rejects with what it said when any command of it fails. */
  async run(script: string): Promise<string> {
    const { stdout } = await run('bash', ['-euo', 'pipefail', '-c', script], {
      cwd: this.home,
      timeout: toolLimitMs,
      maxBuffer: maxOutputBytes,
      env: this.environment,
    });
    return stdout;
  }

  /** Runs the commands of a section of a document, as they stand there. */
  async runSection(document: string, section: string): Promise<string> {
    return this.run(await sectionCommands(document, section));
  }
}

/** The shell commands below a heading of a document in docs/: its blocks of `sh`, in their order. */
export async function sectionCommands(document: string, section: string): Promise<string> {
  const text = await readFile(join(root, 'docs', document), 'utf8');
  const part = text.split(/^#+ /m).find((candidate) => candidate.startsWith(`${section}\n`));
  const blocks = [...(part ?? '').matchAll(/^```sh\n(.*?)^```$/gms)].map((match) => match[1]);
  if (blocks.length === 0) throw new Error(`${document} has no commands under "${section}"`);
  return blocks.join('\n');
}
