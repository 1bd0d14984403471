/**
 * A disk that loses what was written to it, of which the system tells once: what has come is not counted upon again, as
 * it would be found in the page cache and nowhere else.
 */
import { randomBytes } from 'node:crypto';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import t from 'tap';
import { pathExists } from '../src/checkpoint/files.js';
import { Store } from '../src/checkpoint/store.js';
import { verifyCheckpoint } from '../src/checkpoint/verify.js';
import { checksum } from '../src/native.js';
import { backupVm } from '../src/transfer/backup.js';
import { IncomingDirectory, IncomingFile } from '../src/transfer/incoming.js';
import { openTarget } from '../src/transfer/open.js';
import { SparseFile } from '../src/transfer/sparse_file.js';
import { temporary } from './fs-harness.js';
import { temporaryStore } from './support/guests.js';
import { busyVm } from './support/shipment.js';
import { failOneSync } from './support/sync_failure.js';

t.setTimeout(120_000);

const mib = 2 ** 20;
const expected = { id: 'some', bytes: 66 * mib, path: 'memory' };

for (const end of ['finish', 'leave'] as const) {
  t.test(`while more of a file comes, until ${end}()`, async (t) => {
    const place = new IncomingDirectory(join(await temporary(t), 'incoming'));
    await place.prepare();
    const file = await IncomingFile.open(place, expected, 0);
    const told = await failOneSync(t, 'datasync');
    const bytes = randomBytes(expected.bytes);
    await file.data([bytes]);
    if (end === 'leave') {
      await file.leave();
    } else {
      const sum = checksum();
      sum.update(bytes);
      await t.rejects(file.finish(sum.digest()), { code: 'IO' });
    }
    t.equal(told.failed, 1);
    t.equal(await place.has(expected), 0, 'all of it comes again');
  });
}

t.test('before a checkpoint is published', async (t) => {
  const { store, remove } = await temporaryStore();
  const vm = await busyVm(store);
  t.teardown(async () => {
    await vm.close();
    await remove();
  });
  const far = await Store.open(join(store.root, '..', 'far'), { create: true });
  await using target = await openTarget(far.root, { create: true });
  for (const name of ['one', 'two']) await vm.checkpoint({ name, wait: true });
  const [first] = await backupVm(store, 'web', target, { checkpoint: 'one' });
  t.match(first, { state: 'sent' });
  const incoming = () => pathExists(far.incomingDirectory('web'));
  await failOneSync(t, 'sync', { syscall: 'open' });
  await t.rejects(backupVm(store, 'web', target, { checkpoint: 'two' }), { code: 'IO' });
  t.ok(await incoming(), 'after another failure what has come is kept');
  const told = await failOneSync(t, 'sync');
  await t.rejects(backupVm(store, 'web', target, { checkpoint: 'two' }), { code: 'IO' });
  t.equal(told.failed, 1);
  t.same(await readdir(far.checkpointsDirectory('web')), ['one']);
  t.notOk(await incoming(), 'nothing that came is kept');
  t.match(await backupVm(store, 'web', target, { checkpoint: 'two' }), [{ state: 'sent' }]);
  t.same(await verifyCheckpoint(far.checkpointDirectory('web', 'two')), []);
});

t.test('while a file comes in any order', async (t) => {
  const place = new IncomingDirectory(join(await temporary(t), 'incoming'), true);
  await place.prepare();
  const file = await SparseFile.open(place, expected);
  t.teardown(() => file.close());
  const piece = randomBytes(128 << 10);
  file.data(0, [piece], piece.length);
  file.here.add(0);
  file.refuseLost();
  const told = await failOneSync(t, 'datasync');
  await t.rejects(file.note(), { code: 'IO' });
  t.equal(told.failed, 1);
  await file.note();
  t.notOk(await pathExists(place.piecesOf(expected)), 'it is not noted as being there');
  t.throws(() => file.refuseLost(), { code: 'DAMAGED', message: /look into the disk/ });
});
