/**
 * What shows the same raw file as a file in a FUSE mount: the two transports of the mount, xmount, and a FUSE export
 * of qemu-storage-daemon. Each is a process of its own. The first two show a disk of a checkpoint whose parent is
 * that file and that has nothing else.
 */
import type { ChildProcess } from 'node:child_process';
import { execFile } from 'node:child_process';
import { mkdir, readFile, stat, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { sleep } from './progress.js';
import { ended, spawnTied } from './tied.js';

const cli = fileURLToPath(new URL('../src/cli/main.js', import.meta.url));
const startLimitMs = 20_000;
const pollMs = 5;
const run = promisify(execFile);

/** A file that somebody shows. */
export interface Shown {
  name: string;
  file: string;
}

export interface Mounted extends Shown {
  unmount(): Promise<void>;
}

/** Resolves once `file` is there and is not empty. */
async function appeared(file: string, child?: ChildProcess): Promise<void> {
  for (const until = performance.now() + startLimitMs; ; await sleep(pollMs)) {
    const found = await stat(file).catch(() => undefined);
    if (found !== undefined && found.size > 0) return;
    if (child?.exitCode !== undefined && child.exitCode !== null) {
      throw new Error(`${child.spawnfile} ended with ${child.exitCode}`);
    }
    if (performance.now() > until) throw new Error(`${file} has not appeared`);
  }
}

async function emptyDirectory(parent: string, name: string): Promise<string> {
  const directory = join(parent, name);
  await mkdir(directory, { recursive: true });
  return directory;
}

/** A mount of a store by a process of its own. */
export class StoreMount implements Mounted {
  private constructor(
    readonly name: string,
    readonly directory: string,
    readonly file: string,
    private readonly process: ChildProcess,
  ) {}

  static async of(store: string, scratch: string, transport: string, path: string) {
    const directory = await emptyDirectory(scratch, transport);
    const child = spawnTied(
      process.execPath,
      [cli, 'mount', '--foreground', '--transport', transport, store, directory],
      ['ignore', 'ignore', 'inherit'],
    );
    const file = join(directory, path);
    await appeared(file, child);
    return new StoreMount(transport, directory, file, child);
  }

  /** Another file of it. */
  shown(path: string): Shown {
    return { name: this.name, file: join(this.directory, path) };
  }

  /** The most memory that the process has had, in MB. */
  async peakMegabytes(): Promise<number> {
    const text = await readFile(`/proc/${this.process.pid}/status`, 'utf8');
    return (Number(/^VmHWM:\s+(\d+) kB$/m.exec(text)?.[1]) * 1024) / 1e6;
  }

  async unmount(): Promise<void> {
    const end = ended(this.process);
    this.process.kill('SIGTERM');
    await end;
  }
}

export async function mountXmount(raw: string, scratch: string): Promise<Mounted> {
  const directory = await emptyDirectory(scratch, 'xmount');
  await run('xmount', ['--in', 'raw', raw, '--out', 'raw', directory]);
  const file = join(directory, `${basename(raw, '.raw')}.dd`);
  const unmount = async () => {
    await run('umount', [directory]);
  };
  try {
    await appeared(file);
  } catch (error) {
    await unmount();
    throw error;
  }
  return { name: 'xmount', file, unmount };
}

export async function mountStorageDaemon(raw: string, scratch: string): Promise<Mounted> {
  const file = join(await emptyDirectory(scratch, 'qsd'), 'export');
  await writeFile(file, '');
  const child = spawnTied(
    'qemu-storage-daemon',
    [
      ...['--blockdev', `driver=file,node-name=raw,filename=${raw},read-only=on`],
      ...['--export', `type=fuse,id=export,node-name=raw,mountpoint=${file}`],
    ],
    ['ignore', 'ignore', 'inherit'],
  );
  await appeared(file, child);
  const unmount = async () => {
    const end = ended(child);
    child.kill('SIGTERM');
    await end;
  };
  return { name: 'qemu-storage-daemon', file, unmount };
}
