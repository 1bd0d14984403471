/**
 * The oracle test (requirements A2, A3, A14, B2, B4, B7, B10, F4): a copy of RAM taken inside the pause equals
 * the published checkpoint byte for byte, while two harts write at random throughout. Over every trace engine,
 * codec, way to treat disk requests, and two geometries; each checkpoint after the first refers to the one before
 * or is full, by turns, and the one before is removed.
 */
import t from 'tap';
import {
  type CheckpointEntry,
  findCheckpoint,
  removeCheckpoint,
} from '../src/checkpoint/checkpoints.js';
import { verifyCheckpoint } from '../src/checkpoint/verify.js';
import { type Codec, type DrainMode, openMemoryImage, type TraceName } from '../src/native.js';
import { bareConfig, boot, temporaryStore } from './support/guests.js';

/** More than this suite takes on a slow machine. */
const suiteLimitMs = 1_200_000;
const mib = 2 ** 20;
const roundsEach = 3;

const traces: TraceName[] = ['soft', 'mprotect', 'userfaultfd'];
const codecs: Codec[] = ['none', 'lz4', 'zstd'];
const drains: DrainMode[] = ['drain', 'in-flight'];
const geometries = [
  { pageBytes: 4096, pagesPerBlock: 8, blocksPerIoBlock: 8 },
  { pageBytes: 32768, pagesPerBlock: 4, blocksPerIoBlock: 4 },
];

t.setTimeout(suiteLimitMs);

for (const trace of traces) {
  for (const geometry of geometries) {
    const shape = `${geometry.pagesPerBlock} pages of ${geometry.pageBytes / 1024} KiB`;
    t.test(
      `checkpoints under two random writers equal the oracle (${trace}, ${shape})`,
      async (t) => {
        const { store, remove } = await temporaryStore();
        t.teardown(remove);
        const { vm, watch } = await boot(
          store,
          bareConfig('random-writer', 'harts=2 mib=8', {
            name: 'writer',
            cpus: 2,
            memoryBytes: 24 * mib,
            trace,
            geometry,
          }),
        );
        t.teardown(() => vm.close());
        await watch.printed(/random-writer harts=2/);

        const rounds = codecs.flatMap((codec) =>
          drains.flatMap((drain) => Array.from({ length: roundsEach }, () => ({ codec, drain }))),
        );
        let faults = 0;
        let different = 0;
        let referred = 0;
        let before: CheckpointEntry | undefined;
        for (const [round, { codec, drain }] of rounds.entries()) {
          const name = `round-${round}`;
          const full = round % 3 === 2;
          const { instructions } = vm.status();
          const summary = await vm.checkpoint(
            { name, codec, drain, full, wait: true },
            { oracle: true },
          );
          const entry = await findCheckpoint(store, `writer@${name}`);
          if (before) await removeCheckpoint(store, before);
          before = entry;
          const image = await openMemoryImage(entry.directory);
          const found = Buffer.alloc(image.bytes);
          const length = await image.read(found, 0);
          image.close();
          if (length !== image.bytes || !found.equals(vm.oracle())) different++;
          if (vm.status().instructions === instructions)
            t.fail('the guest stood still in the save');
          if (round % 6 === 0) {
            t.same(await verifyCheckpoint(entry.directory), [], `${codec}, ${drain}: it verifies`);
          }
          if (!full && round > 0) referred += summary.blocks?.parent ?? 0;
          faults += summary.faults ?? 0;
        }
        t.equal(different, 0, 'every published checkpoint equals the copy taken in its pause');
        t.ok(faults > rounds.length, 'the harts took write-trace faults during the saves');
        t.ok(referred > 0, 'increments referred to what was not written');
      },
    );
  }
}
