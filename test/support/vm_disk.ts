/** A VM with one disk, that its guest writes to by a shell and the test looks at by the command line. */
import { createHash } from 'node:crypto';
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Test } from 'tap';
import type { withStore } from './cli.js';
import { temporaryDirectory } from './guests.js';
import { GuestShell } from './shell.js';

const mib = 2 ** 20;
const done = { status: 0 };

/** A VM whose guest has a disk of 4 MiB and a shell, and whose disk can be looked at. */
export async function withDisk(
  t: Test,
  cli: Awaited<ReturnType<typeof withStore>>,
  mode = 'nonpersistent',
  bytes = 4 * mib,
) {
  const scratch = await temporaryDirectory();
  t.teardown(scratch.remove);
  const parent = join(scratch.path, 'parent.img');
  await writeFile(parent, Buffer.alloc(bytes, 0x61));
  const directory = cli.store.diskDirectory('vm', 'vda');
  let copies = 0;
  return {
    scratch: scratch.path,
    parent,
    boot: () => GuestShell.boot(cli.store, '--name', 'vm', '--disk', `${parent},mode=${mode}`),
    again: () => GuestShell.again(cli.store, 'vm'),
    logs: async () => (await readdir(directory)).filter((name) => name.endsWith('.redo')),
    own: async () => (await readdir(directory)).filter((name) => name.endsWith('.raw')),
    /** The whole of a disk, by `ckptfs disk flatten`. */
    sum: async (reference: string) => {
      const copy = join(scratch.path, `copy-${copies++}`);
      t.match(await cli.ckptfs('disk', 'flatten', reference, '-o', copy), done, reference);
      return sumOf(copy);
    },
    directory,
  };
}

export async function sumOf(path: string): Promise<string> {
  return createHash('sha256')
    .update(await readFile(path))
    .digest('hex');
}

/** Writes `count` blocks of 4 KiB from block `at` on, of a letter for each seed. */
export function dd(seed: number, at: number, count: number): string {
  const letter = String.fromCharCode(0x41 + seed);
  return `dd if=/dev/zero bs=4096 count=${count} | tr '\\0' ${letter} | dd of=/dev/vda bs=4096 seek=${at} conv=notrunc,fsync`;
}
