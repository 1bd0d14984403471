/**
 * Who reads a checkpoint here and there and asks for what there is not, and a far end that answers with what was not
 * asked for: each is refused with a stable code, and nothing is published of it.
 */
import { readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import { setTimeout } from 'node:timers/promises';
import t, { type Test } from 'tap';
import { listAllCheckpoints } from '../src/checkpoint/checkpoints.js';
import { Store } from '../src/checkpoint/store.js';
import { CkptError, toCkptError } from '../src/errors.js';
import { checksum } from '../src/native.js';
import { Arrival, type FarLink } from '../src/transfer/arrival.js';
import { Connection } from '../src/transfer/connection.js';
import { FarCheckpoint } from '../src/transfer/far_checkpoint.js';
import { FrameWriter } from '../src/transfer/frames.js';
import type { Message, MessageOf } from '../src/transfer/messages.js';
import { offerOf, pack } from '../src/transfer/parcel.js';
import { temporaryStore } from './support/guests.js';
import { busyVm, forged, pictureOf } from './support/shipment.js';
import { type Answer, openedAt, receiver, say } from './support/wire.js';

t.setTimeout(600_000);

/** A store with one checkpoint of a VM, whole by itself. */
async function setup(t: Test) {
  const { store: far, remove } = await temporaryStore();
  t.teardown(remove);
  const vm = await busyVm(far, { stillMib: 1, diskMib: 1 });
  await vm.checkpoint({ name: 'one', copyDisks: true });
  await vm.close();
  const parcel = await pack(far.checkpointDirectory('web', 'one'));
  return { far, parcel, beside: join(far.root, '..') };
}

t.test('a hostile reader gets nothing but what it may read', async (t) => {
  const { far, beside } = await setup(t);
  const before = await pictureOf(beside);
  const open = { type: 'open', vm: 'web', name: 'one' };
  const { files } = await pack(far.checkpointDirectory('web', 'one'));
  const bytes = files[0]?.file.bytes ?? 0;
  for (const request of [
    { type: 'read', index: files.length, offset: 0, bytes: 1 },
    { type: 'read', index: -1, offset: 0, bytes: 1 },
    { type: 'read', index: 0.5, offset: 0, bytes: 1 },
    { type: 'read', index: 0, offset: bytes, bytes: 1 },
    { type: 'read', index: 0, offset: 1, bytes },
    { type: 'read', index: 0, offset: -1, bytes: 2 },
    { type: 'read', index: 0, offset: Number.MAX_SAFE_INTEGER, bytes: 1 },
    { type: 'read', index: 0, offset: 0, bytes: 0 },
    { type: 'read', index: 0, offset: 0, bytes: (1 << 20) + 1 },
    { type: 'read', index: 0, offset: 0, bytes: 1, path: '/etc/passwd' },
    { type: 'sum', index: files.length },
    { type: 'open', vm: 'web', name: 'one' },
    { type: 'list' },
    { type: 'commit' },
    { type: 'wanted', files: [] },
  ]) {
    const failure = await say(far, async (writer) => {
      await writer.control(open);
      await writer.control(request);
    });
    t.match(failure, { code: 'USAGE' }, JSON.stringify(request));
  }
  t.match(
    await say(far, (writer) => writer.control({ ...open, name: '../one' })),
    { code: 'USAGE' },
    'a name that leads elsewhere',
  );
  t.match(
    await say(far, (writer) => writer.control({ type: 'read', index: 0, offset: 0, bytes: 1 })),
    { code: 'USAGE' },
    'a read of nothing',
  );
  // What is not there is refused by itself, and what is closed makes room for the next request.
  const { toReceiver, fromReceiver, ended } = receiver(far);
  const connection = new Connection(fromReceiver, toReceiver);
  await connection.greet();
  await t.rejects(FarCheckpoint.open(connection, 'web', 'none'), { code: 'NOT_FOUND' });
  await FarCheckpoint.open(connection, 'web', 'one');
  await connection.send({ type: 'close' });
  await connection.send({ type: 'list', vm: 'web' });
  t.match(await connection.expect('checkpoints'), { checkpoints: [{ name: 'one' }] });
  connection.close();
  t.equal(await ended, undefined);
  t.same(await pictureOf(beside), before);
});

t.test('a side that speaks only version 1 is refused, by either side', async (t) => {
  const { far } = await setup(t);
  const { toReceiver, fromReceiver, ended } = receiver(far);
  const told: string[] = [];
  fromReceiver.setEncoding('latin1').on('data', (piece: string) => told.push(piece));
  const writer = new FrameWriter(toReceiver);
  await writer.raw('CKPTXFER');
  await writer.control({ type: 'hello', protocol: 1, program: 'ckptfs' });
  t.match(await ended, { code: 'UNSUPPORTED', message: /speaks version 1 / });
  t.match(told.join(''), /"type":"error","code":"UNSUPPORTED"/);

  const [toFar, fromFar] = [new PassThrough(), new PassThrough()];
  const old = new FrameWriter(fromFar);
  await old.raw('CKPTXFER');
  await old.control({ type: 'hello', protocol: 1, program: 'ckptfs', store: '/', freeBytes: 1 });
  await t.rejects(new Connection(fromFar, toFar).greet(), { code: 'UNSUPPORTED' });
});

t.test('a hostile far end is refused, and nothing of it published', async (t) => {
  const { parcel, beside } = await setup(t);
  const near = await Store.open(join(beside, 'near'), { create: true });
  const offer = offerOf(parcel);
  const of = { vm: 'web', name: 'one' };
  /** An answer that is right. */
  const contents = async (request: Message, writer: FrameWriter): Promise<void> => {
    if (request.type === 'open') await writer.control(offer);
    if (request.type === 'read') {
      const { source } = parcel.files[request.index]!;
      const bytes = (await readFile(source)).subarray(request.offset);
      await writer.data(bytes.subarray(0, request.bytes));
    }
    if (request.type === 'sum') {
      const sum = checksum();
      sum.update(await readFile(parcel.files[request.index]!.source));
      await writer.control({ type: 'end', checksum: sum.digest() });
    }
  };
  /** How the arrival of a checkpoint ends that is answered so. */
  const outcome = async (answer: Answer): Promise<CkptError | undefined> => {
    try {
      const noWay = (): Promise<FarLink> => Promise.reject(new CkptError('UNSUPPORTED', 'no way'));
      const arrival = await Arrival.begin(await openedAt(of, answer), noWay, near, of);
      arrival?.runs();
      arrival?.mayPublish();
      const deadline = setTimeout(20_000, 'deadline', { ref: false });
      const over = new AbortController();
      const told = (async () => {
        while (!over.signal.aborted && arrival?.status().error === undefined) await setTimeout(5);
        throw new CkptError('IO', arrival?.status().error ?? '');
      })();
      told.catch(() => undefined);
      try {
        await Promise.race([arrival?.whole, told, deadline]);
      } finally {
        over.abort();
        await arrival?.end();
      }
      return undefined;
    } catch (error) {
      return toCkptError(error);
    }
  };
  const refused = async (what: string, code: RegExp, answer: Answer): Promise<void> => {
    const failure = await outcome(answer);
    t.match(failure, { code }, `${what}: ${failure?.message ?? 'nothing was found wrong'}`);
    t.same(await listAllCheckpoints(near), [], `${what}: nothing is published`);
    const others = (await readdir(near.vmsDirectory())).filter((name) => name !== 'web');
    t.same(others, [], `${what}: nothing lies elsewhere`);
    await rm(near.vmDirectory('web'), { recursive: true, force: true });
  };
  /** Right but for the answers to reads. */
  const reading =
    (answer: (read: MessageOf<'read'>, writer: FrameWriter) => Promise<void>): Answer =>
    (request, writer) =>
      request.type === 'read' ? answer(request, writer) : contents(request, writer);
  const offering =
    (other: object): Answer =>
    (request, writer) =>
      request.type === 'open' ? writer.control(other) : contents(request, writer);

  const more = reading(({ bytes }, writer) => writer.data(Buffer.alloc(bytes + 1, 1)));
  await refused('more than was asked for', /USAGE/, more);
  const endless = reading(async (_read, writer) => {
    for (let i = 0; i < 1000; i++) await writer.data(Buffer.alloc(1 << 20, 1));
  });
  await refused('an endless answer', /USAGE/, endless);
  await refused(
    'endless zeros',
    /USAGE/,
    reading((_read, writer) => writer.zeros(1 << 30)),
  );
  for (const other of [
    { type: 'end', checksum: '0'.repeat(16) },
    { type: 'checkpoints', checkpoints: [] },
    { type: 'published' },
    offer,
    { type: 'surprise' },
  ]) {
    await refused(
      `${other.type} instead of data`,
      /USAGE/,
      reading((_read, writer) => writer.control(other)),
    );
  }
  const shorter = reading(async ({ bytes }, writer) => {
    await writer.data(Buffer.alloc(bytes - 1, 1));
    await writer.control({ type: 'end', checksum: '0'.repeat(16) });
  });
  await refused('less than was asked for', /USAGE/, shorter);
  const failing = { type: 'error', code: 'IO', message: 'broken', data: {} };
  await refused(
    'a failure',
    /IO/,
    reading((_read, writer) => writer.control(failing)),
  );
  await refused(
    'other contents',
    /DAMAGED/,
    reading(({ bytes }, writer) => writer.data(Buffer.alloc(bytes, 1))),
  );
  await refused('a wrong checksum', /DAMAGED/, (request, writer) =>
    request.type === 'sum'
      ? writer.control({ type: 'end', checksum: '0'.repeat(16) })
      : contents(request, writer),
  );
  await refused('data instead of a checksum', /IO/, (request, writer) =>
    request.type === 'sum' ? writer.data(Buffer.alloc(100)) : contents(request, writer),
  );
  const otherIds = offer.files.map(({ allocatedBytes }) => ({
    id: 'f'.repeat(32),
    allocatedBytes,
  }));
  await refused('ids of other contents', /DAMAGED|USAGE/, offering({ ...offer, files: otherIds }));
  const asOne = forged(parcel, (manifest) => (manifest.name = 'two'));
  await refused('another checkpoint', /DAMAGED/, offering(asOne));
  const large = forged(parcel, ({ files }) => (files[0]!.bytes = 2 ** 45));
  await refused('a file too large', /NO_SPACE|USAGE/, offering(large));
  const hollow = forged(parcel, ({ files, disks }) => {
    for (const disk of disks) disk.parentIdentity.bytes = 2 ** 45;
    for (const file of files) if (file.path.endsWith('.raw')) file.bytes = 2 ** 45;
  });
  await refused('a disk that is all holes', /UNSUPPORTED/, offering(hollow));
  for (const path of ['x', 'disks/vda/x', 'disks/a/b/00000001.redo', 'manifest.json.new']) {
    const elsewhere = forged(parcel, ({ files }) => {
      files.find((file) => /\.(hot|cold)$/.test(file.path))!.path = path;
    });
    await refused(`a file ${path}`, /USAGE|DAMAGED/, offering(elsewhere));
  }
  const outside = forged(parcel, ({ disks }) => (disks[0]!.parent = '/etc/passwd'));
  await refused('a parent elsewhere', /USAGE/, offering(outside));

  t.equal(await outcome(contents), undefined, 'one that is right is taken');
  t.match(await listAllCheckpoints(near), [{ name: 'one' }]);
});
