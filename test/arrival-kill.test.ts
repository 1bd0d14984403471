/**
 * The process of a VM whose checkpoint is still coming is killed: nothing can start from what it leaves, and the next
 * recovery goes on with what had come.
 */
import { chmod, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { findCheckpoint, listCheckpoints } from '../src/checkpoint/checkpoints.js';
import { namesIn, pathExists } from '../src/checkpoint/files.js';
import { Store } from '../src/checkpoint/store.js';
import { verifyCheckpoint } from '../src/checkpoint/verify.js';
import type { ArrivingStatus } from '../src/types.js';
import { start } from './support/cli.js';
import { withoutNetwork } from './support/far_shell.js';
import { temporaryStore, until } from './support/guests.js';
import { busyVm, contentsOf } from './support/shipment.js';

t.setTimeout(600_000);

const mib = 2 ** 20;
const slowPipe = fileURLToPath(new URL('./support/slow_pipe.js', import.meta.url));

t.test('a kill amid the arrival', async (t) => {
  const { store: far, remove } = await temporaryStore();
  t.teardown(remove);
  const source = await busyVm(far, { stillMib: 48, diskMib: 16 });
  await source.checkpoint({ name: 'one', copyDisks: true });
  await source.close();
  const beside = join(far.root, '..');
  const near = await Store.open(join(beside, 'near'), { create: true });
  const environment = await withoutNetwork(beside);
  const slow = join(beside, 'slow-ssh');
  await writeFile(
    slow,
    `#!/bin/sh\n'${environment.CKPTFS_SSH}' "$@" | exec '${process.execPath}' '${slowPipe}' ${4 * mib}\n`,
  );
  await chmod(slow, 0o755);
  const ckptfs = (...args: string[]) => start(near, [...args, '--json']).finished;
  const remote = ['--ssh', slow, '--remote-program', environment.CKPTFS_REMOTE ?? ''];
  const recover = async (): Promise<number> => {
    const words = ['recover', `ssh://far${far.root}`, 'web@one', '--detach', '--no-wait'];
    const done = await ckptfs(...words, ...remote);
    t.match(done, { status: 0 }, done.stderr);
    return (done.objects.at(-1) as { pid: number }).pid;
  };
  const arriving = async (): Promise<ArrivingStatus | undefined> => {
    const { objects } = await ckptfs('info', 'web');
    return (objects[0] as { arriving?: ArrivingStatus }).arriving;
  };
  t.teardown(() => ckptfs('stop', 'web'));

  const pid = await recover();
  const incoming = near.incomingDirectory('web');
  await until('something is noted', async () =>
    (await namesIn(incoming)).some((name) => name.endsWith('.pieces')),
  );
  const noted = await arriving();
  t.ok(noted && noted.doneBytes > 8 * mib && noted.doneBytes < noted.totalBytes);
  process.kill(pid, 'SIGKILL');
  const state = async () => (await ckptfs('info', 'web')).objects[0];
  await until('its end', async () => (await state())?.state !== 'running');
  t.same(await listCheckpoints(near, 'web'), []);
  t.notOk(await pathExists(near.configFile('web')));
  t.not((await ckptfs('run', '--name', 'web')).status, 0, 'it cannot be booted');

  const begun = Date.now();
  await recover();
  const again = await arriving();
  const sentAtMost = ((Date.now() - begun) / 1000) * 4 * mib;
  t.ok(
    (again?.doneBytes ?? Infinity) - sentAtMost > 4 * mib,
    `${again?.doneBytes} bytes are there, and ${sentAtMost} can have come since`,
  );
  await until('all of it', async () => (await listCheckpoints(near, 'web')).length === 1);
  const { directory } = await findCheckpoint(near, 'web@one');
  t.same(await verifyCheckpoint(directory), []);
  t.same(
    await contentsOf(directory),
    await contentsOf((await findCheckpoint(far, 'web@one')).directory),
  );
  await until('its configuration', () => pathExists(near.configFile('web')));
});
