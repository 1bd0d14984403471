/**
 * SIGKILL at random moments of save and restore: the store verifies, every published checkpoint restores,
 * and leftovers are cleared at the next start. The moments are pseudo-random from a fixed seed.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import {
  findCheckpoint,
  listCheckpoints,
  removeCheckpoint,
} from '../src/checkpoint/checkpoints.js';
import { verifyCheckpoint } from '../src/checkpoint/verify.js';
import { Vm } from '../src/vmm/vm.js';
import { bareConfig, boot, temporaryDirectory, temporaryStore } from './support/guests.js';

/** More than this suite takes on a slow machine. */
const suiteLimitMs = 900_000;
const mib = 2 ** 20;
const rounds = 50;
const worker = fileURLToPath(new URL('./support/victim.js', import.meta.url));

t.setTimeout(suiteLimitMs);

/** A victim process and the lines it prints. */
function victim(
  store: string,
  checkpoint: string,
): { child: ChildProcess; lines: AsyncIterable<string> } {
  const child = spawn(process.execPath, [worker, store, checkpoint], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  return { child, lines: createInterface({ input: child.stdout as NodeJS.ReadableStream }) };
}

function ended(child: ChildProcess): Promise<void> {
  return new Promise((resolve) => child.once('close', () => resolve()));
}

t.test(`${rounds} kills in the middle of restores and saves`, async (t) => {
  const { store, remove } = await temporaryStore();
  t.teardown(remove);
  const scratch = await temporaryDirectory();
  t.teardown(scratch.remove);
  const disk = join(scratch.path, 'disk.img');
  await writeFile(disk, Buffer.alloc(mib, 1));
  const { vm } = await boot(
    store,
    bareConfig('random-writer', 'harts=2 mib=12', {
      name: 'vm',
      cpus: 2,
      memoryBytes: 24 * mib,
      disks: [{ path: disk }],
    }),
  );
  await vm.checkpoint({ name: 'c0', codec: 'lz4', wait: true });
  await vm.close();

  let state = 12345;
  const random = (below: number): number => {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
  let inSave = 0;
  let leftovers = 0;
  for (let round = 0; round < rounds; round++) {
    // The victim restores the newest checkpoint lazily and saves one after another.
    const { child, lines } = victim(store.root, 'vm@latest');
    const closed = ended(child);
    const delayMs = random(60);
    // Every third kill comes during the start and the restore, the others during a save.
    const during = round % 3 === 0 ? 'restore' : 'save';
    for await (const line of lines) {
      if (line === during) {
        await new Promise((resolve) => setTimeout(resolve, delayMs));
        break;
      }
    }
    child.kill('SIGKILL');
    await closed;
    if (during === 'save') inSave++;
    const names = await readdir(store.checkpointsDirectory('vm'));
    leftovers += names.filter((name) => name.startsWith('.tmp-')).length;

    const entries = await listCheckpoints(store, 'vm');
    for (const entry of entries) {
      const damage = await verifyCheckpoint(entry.directory);
      if (damage.length > 0) t.fail(`round ${round}: ${entry.name}: ${JSON.stringify(damage)}`);
    }
    // Restored eagerly every block is read and checked; the start clears leftovers.
    const latest = await findCheckpoint(store, 'vm@latest');
    const restored = await Vm.restore(store, latest, { lazy: false });
    await restored.close();
    const after = await readdir(store.checkpointsDirectory('vm'));
    if (after.some((name) => name.startsWith('.tmp-'))) t.fail(`round ${round}: leftovers remain`);
    for (const entry of entries.slice(0, -2)) await removeCheckpoint(store, entry);
  }
  t.ok(inSave > rounds / 2, `${inSave} kills came during saves`);
  t.ok(leftovers > 0, `${leftovers} unpublished checkpoints had to be cleared`);
  t.same(
    (await readdir(store.vmDirectory('vm'))).filter((name) => /\.(new|old)/.test(name)),
    [],
  );
});
