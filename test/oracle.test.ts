/**
 * The oracle test (requirements A2, A3, B2, B4): a copy of RAM taken inside the pause equals the published
 * checkpoint byte for byte, while two harts write at random throughout.
 */
import t from 'tap';
import { findCheckpoint, removeCheckpoint } from '../src/checkpoint/checkpoints.js';
import { verifyCheckpoint } from '../src/checkpoint/verify.js';
import { type Codec, openMemoryImage } from '../src/native.js';
import { bareConfig, boot, temporaryStore } from './support/guests.js';

/** More than this suite takes on a slow machine. */
const suiteLimitMs = 900_000;
const mib = 2 ** 20;
const rounds = 100;

t.setTimeout(suiteLimitMs);

for (const codec of ['lz4', 'none'] satisfies Codec[]) {
  t.test(
    `${rounds} checkpoints under two random writers equal the oracle (${codec})`,
    async (t) => {
      const { store, remove } = await temporaryStore();
      t.teardown(remove);
      const { vm, watch } = await boot(
        store,
        bareConfig('random-writer', 'harts=2 mib=8', {
          name: 'writer',
          cpus: 2,
          memoryBytes: 24 * mib,
        }),
      );
      t.teardown(() => vm.close());
      await watch.printed(/random-writer harts=2/);

      let faults = 0;
      let different = 0;
      for (let round = 0; round < rounds; round++) {
        const name = `round-${round}`;
        const before = vm.status().instructions;
        const summary = await vm.checkpoint({ name, codec, wait: true }, { oracle: true });
        const entry = await findCheckpoint(store, `writer@${name}`);
        const image = await openMemoryImage(entry.directory);
        const found = Buffer.alloc(image.bytes);
        const length = await image.read(found, 0);
        image.close();
        if (length !== image.bytes || !found.equals(vm.oracle())) different++;
        if (vm.status().instructions === before) t.fail('the guest stood still during the save');
        if (round === 0)
          t.same(await verifyCheckpoint(entry.directory), [], 'the first one verifies');
        faults += summary.faults ?? 0;
        await removeCheckpoint(store, entry);
      }
      t.equal(different, 0, 'every published checkpoint equals the copy taken in its pause');
      t.ok(faults > rounds, 'the harts took write-trace faults during the saves');
    },
  );
}
