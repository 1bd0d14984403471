/**
 * A sender that does what no sender of ours does (arrival-hostile has far ends that do): the receiver ends with a stable code and a reason, its store is as it
 * was, to the byte, and what is published in it is whole.
 */
import { join } from 'node:path';
import { mkdir, readdir, rm, symlink } from 'node:fs/promises';
import { setTimeout } from 'node:timers/promises';
import t, { type Test } from 'tap';
import { listAllCheckpoints } from '../src/checkpoint/checkpoints.js';
import type { Manifest } from '../src/checkpoint/manifest.js';
import { Store } from '../src/checkpoint/store.js';
import { verifyCheckpoint } from '../src/checkpoint/verify.js';
import { checksum } from '../src/native.js';
import type { FrameWriter } from '../src/transfer/frames.js';
import { offerOf, pack, type Parcel } from '../src/transfer/parcel.js';
import { protocolVersion } from '../src/transfer/messages.js';
import { openTarget } from '../src/transfer/open.js';
import { scratch } from './support/checkpoints.js';
import { temporaryStore } from './support/guests.js';
import { busyVm, forged, pictureOf } from './support/shipment.js';
import { receiver, recordedStream, say, sendRaw } from './support/wire.js';

t.setTimeout(600_000);

const mutations = Number(process.env.CKPTFS_TRANSFER_MUTATIONS ?? 150);

/** A parcel to be sent, and a store that has one checkpoint already. */
async function setup(t: Test): Promise<{ parcel: Parcel; far: Store; beside: string }> {
  const { store, remove } = await temporaryStore();
  t.teardown(remove);
  const vm = await busyVm(store, { stillMib: 1, diskMib: 1 });
  await vm.checkpoint({ name: 'one', wait: true });
  await vm.checkpoint({ name: 'two', wait: true });
  await vm.close();
  const beside = join(store.root, '..');
  await using target = await openTarget(join(beside, 'far'), { create: true });
  await target.send(await pack(store.checkpointDirectory('web', 'one')));
  const parcel = await pack(store.checkpointDirectory('web', 'two'));
  return { parcel, far: await Store.open(join(beside, 'far')), beside };
}

t.test('a hostile sender changes nothing', async (t) => {
  const { parcel, far, beside } = await setup(t);
  const offer = offerOf(parcel);
  const before = await pictureOf(beside);
  const refused = async (
    what: string,
    code: string | RegExp,
    talk: (writer: FrameWriter) => Promise<void>,
  ): Promise<void> => {
    const failure = await say(far, talk);
    t.match(failure, { code }, `${what}: ${failure?.message ?? 'nothing was found wrong'}`);
    await unchanged(what);
  };
  const unchanged = async (what: string): Promise<void> => {
    const after = await pictureOf(beside);
    // What has come of a file may stay, in the place for it.
    const changed = [...after].filter(
      ([path, contents]) => before.get(path) !== contents && !isExpected(path),
    );
    t.same(changed, [], `${what}: nothing has changed`);
    for (const path of before.keys()) if (!after.has(path)) t.fail(`${what}: ${path} is gone`);
    await rm(far.incomingDirectory('web'), { recursive: true, force: true });
  };
  const isExpected = (path: string): boolean =>
    path === 'far/vms/web/receive.lock' || path.startsWith('far/vms/web/incoming');

  await t.test('no protocol', async (t) => {
    for (const bytes of [
      'SSH-2.0-OpenSSH_9.2\r\n',
      'CKPTXFER',
      '',
      `CKPTXFER${'\0'.repeat(64)}`,
      `CKPTXFER\x01\0\0\0\xff\xff\xff\xff`,
      `CKPTXFER\x02\0\0\0\x01\0\0\0x`,
      `CKPTXFER\x01\x01\0\0\x02\0\0\0{}`,
      `CKPTXFER\x09\0\0\0\x02\0\0\0{}`,
      'CKPTXFER\x01\0\0\0\x05\0\0\0{"a":',
    ]) {
      const failure = await sendRaw(far, Buffer.from(bytes, 'latin1'));
      t.match(failure, { code: /USAGE|IO/ }, JSON.stringify(bytes));
    }
    await unchanged('no protocol');
  });
  await t.test('messages that are none', async () => {
    for (const value of [
      {},
      [],
      { type: 'other' },
      { type: 'offer' },
      { type: 'file', index: -1, offset: 0 },
      { type: 'list', vm: '../..' },
      { type: 'list', vm: 'web', more: 1 },
      { type: 'file', index: 0, offset: 0 },
      { type: 'commit' },
      { type: 'published' },
      { type: 'hello', protocol: 1, program: 'x' },
    ]) {
      await refused(JSON.stringify(value), 'USAGE', (writer) => writer.control(value));
    }
    await refused('data of nothing', 'USAGE', (writer) => writer.data(Buffer.from('x')));
    await refused('zeros of nothing', 'USAGE', (writer) => writer.zeros(5));
  });

  /** An offer is refused by itself, and the connection goes on. */
  const offerRefused = async (what: string, value: object, code: RegExp): Promise<void> => {
    const { toReceiver, fromReceiver, ended } = receiver(far);
    const answers: string[] = [];
    fromReceiver.setEncoding('latin1').on('data', (piece: string) => answers.push(piece));
    const { FrameWriter: Writer } = await import('../src/transfer/frames.js');
    const writer = new Writer(toReceiver);
    await writer.raw('CKPTXFER');
    await writer.control({ type: 'hello', protocol: protocolVersion, program: 'ckptfs' });
    await writer.control(value);
    await writer.control({ type: 'list', vm: 'web' });
    writer.end();
    t.equal(await ended, undefined, `${what}: the connection goes on`);
    const text = answers.join('');
    t.match(text, new RegExp(`"type":"error","code":"${code.source}"`), what);
    t.match(text, /"type":"checkpoints"/);
    await unchanged(what);
  };
  await t.test('offers that are refused', async () => {
    const file = (change: (file: Manifest['files'][number]) => void) =>
      forged(parcel, ({ files }) => change(files.find(({ path }) => /\.(hot|cold)$/.test(path))!));
    for (const path of ['x', 'disks/vda/x', 'disks/a/b/00000001.redo', 'manifest.json.new']) {
      await offerRefused(
        path,
        file((of) => (of.path = path)),
        /USAGE/,
      );
    }
    const text = (from: string, to: string) => ({
      ...offer,
      manifest: offer.manifest.replace(from, to),
    });
    await offerRefused('a changed manifest', text('"vm": "web"', '"vm": "wob"'), /DAMAGED/);
    await offerRefused('no manifest', { ...offer, manifest: '' }, /DAMAGED/);
    await offerRefused(
      'more files',
      { ...offer, files: [...offer.files, offer.files[0]] },
      /USAGE/,
    );
    await offerRefused(
      'a file too large',
      file((of) => (of.bytes = 2 ** 52)),
      /NO_SPACE|USAGE/,
    );
    await offerRefused(
      'no room',
      {
        ...file((of) => (of.bytes = 2 ** 45)),
        files: offer.files.map((of) => ({ ...of, allocatedBytes: 2 ** 45 })),
      },
      /NO_SPACE/,
    );
    await offerRefused(
      'another one of that name',
      forged(parcel, (m) => (m.name = 'one')),
      /EXISTS/,
    );
    const outside = forged(parcel, ({ disks }) => (disks[0]!.parent = '/etc/passwd'));
    await offerRefused('a parent elsewhere', outside, /USAGE/);
  });
  await t.test('names that lead elsewhere', async () => {
    // The schema of manifests has no such names, so they are forged as text with a right checksum.
    const { createHash } = await import('node:crypto');
    const rename = (change: (text: string) => string): object => {
      const empty = change(offer.manifest).replace(/"checksum": "sha256:[^"]*"/, '"checksum": ""');
      const sum = createHash('sha256').update(empty).digest('hex');
      return { ...offer, manifest: empty.replace('"checksum": ""', `"checksum": "sha256:${sum}"`) };
    };
    for (const name of ['../../x', '..', '.', '', 'a/b', '.tmp-1', 'latest', '/etc', 'a\\u0000b']) {
      const vm = rename((text) => text.replace('"vm": "web"', `"vm": "${name}"`));
      await offerRefused(`a VM ${name}`, vm, /DAMAGED/);
      const own = rename((text) => text.replace('"name": "two"', `"name": "${name}"`));
      await offerRefused(`a checkpoint ${name}`, own, /DAMAGED/);
    }
    for (const path of ['../../../x', '/etc/passwd', 'disks/../../x', './x', 'disks//x']) {
      const files = rename((text) =>
        text.replace(/"path": "[0-9a-f]{32}\.(?:hot|cold)"/, `"path": "${path}"`),
      );
      await offerRefused(`a file ${path}`, files, /DAMAGED/);
    }
  });
  await t.test('files that are not what was announced', async () => {
    const begun = async (writer: FrameWriter): Promise<{ index: number; bytes: number }> => {
      await writer.control(offer);
      const index = parcel.files.findIndex(({ file }) => file.path === 'memory.map');
      await writer.control({ type: 'file', index, offset: 0 });
      return { index, bytes: parcel.files[index]!.file.bytes };
    };
    const sumOf = (bytes: Buffer): string => {
      const sum = checksum();
      sum.update(bytes);
      return sum.digest();
    };
    await refused('an endless stream', 'USAGE', async (writer) => {
      await begun(writer);
      for (let i = 0; i < 1000; i++) await writer.data(Buffer.alloc(1 << 20, 1));
    });
    await refused('endless zeros', 'USAGE', async (writer) => {
      await begun(writer);
      for (let i = 0; i < 1000; i++) await writer.zeros(1 << 30);
    });
    await refused('too little', 'USAGE', async (writer) => {
      await begun(writer);
      await writer.data(Buffer.from('abc'));
      await writer.control({ type: 'end', checksum: sumOf(Buffer.from('abc')) });
      await writer.control({ type: 'commit' });
    });
    await refused('a wrong checksum', 'DAMAGED', async (writer) => {
      const { bytes } = await begun(writer);
      await writer.data(Buffer.alloc(bytes, 1));
      await writer.control({ type: 'end', checksum: '0'.repeat(16) });
      await writer.control({ type: 'commit' });
    });
    await refused('other contents with a right checksum', 'USAGE', async (writer) => {
      const { bytes } = await begun(writer);
      const other = Buffer.alloc(bytes, 1);
      await writer.data(other);
      await writer.control({ type: 'end', checksum: sumOf(other) });
      await writer.control({ type: 'commit' });
    });
    for (const [what, message] of [
      ['a file that is there', { type: 'file', index: 10_000, offset: 0 }],
      ['from another place', { type: 'file', index: 0, offset: 7 }],
      ['publishing too early', { type: 'commit' }],
      ['another offer amid one', offer],
      ['a request amid one', { type: 'list' }],
    ] as const) {
      await refused(what, 'USAGE', async (writer) => {
        await writer.control(offer);
        await writer.control(message);
      });
    }
    await refused('an end amid a file', 'IO', async (writer) => {
      await begun(writer);
    });
    await refused('silence', 'IO', async (writer) => {
      await begun(writer);
      await setTimeout(3000);
    });
  });
});

t.test('symbolic links in the store lead nowhere', async (t) => {
  const { parcel, far, beside } = await setup(t);
  const elsewhere = join(beside, 'elsewhere');
  for (const path of [
    far.incomingDirectory('web'),
    far.checkpointsDirectory('web'),
    far.vmDirectory('web'),
  ]) {
    await mkdir(elsewhere, { recursive: true });
    await rm(path, { recursive: true, force: true });
    await symlink(elsewhere, path);
    await using target = await openTarget(far.root);
    await t.rejects(target.send(parcel), { code: /IO|EXISTS/ }, path);
    t.same(await readdir(elsewhere), [], 'nothing was written there');
    await rm(path);
  }
});

t.test(`${mutations} mutations of a recorded stream`, async (t) => {
  const { parcel, far } = await setup(t);
  const root = await scratch(t);
  const recordedAt = await Store.open(join(root, 'recorded'), { create: true });
  const stream = await recordedStream(recordedAt, parcel);
  let seed = Number(process.env.CKPTFS_TRANSFER_SEED ?? 1);
  const random = (below: number): number => {
    seed = (Math.imul(seed, 1103515245) + 12345) >>> 0;
    return Math.floor((seed / 2 ** 32) * below);
  };
  // Most of the stream is contents: half of the changes are where its structure is.
  const position = (): number =>
    random(2) === 0 ? random(Math.min(stream.length, 8192)) : random(stream.length);
  let refusals = 0;
  let published = 0;
  const target = await Store.open(join(root, 'target'), { create: true });
  for (let round = 0; round < mutations; round++) {
    let bytes: Buffer = Buffer.from(stream);
    for (let change = 0; change <= random(3); change++) {
      const at = position();
      switch (random(5)) {
        case 0:
          bytes[at % bytes.length] = random(256);
          break;
        case 1:
          bytes = bytes.subarray(0, at);
          break;
        case 2:
          bytes = Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + 1 + random(64))]);
          break;
        case 3:
          bytes = Buffer.concat([
            bytes.subarray(0, at),
            bytes.subarray(position(), at),
            bytes.subarray(at),
          ]);
          break;
        case 4:
          bytes.fill(
            random(256),
            Math.min(at, bytes.length),
            Math.min(at + random(16), bytes.length),
          );
          break;
      }
      if (bytes.length === 0) break;
    }
    const failure = await sendRaw(target, bytes);
    if (failure) refusals++;
    if (failure?.code === 'INTERNAL') t.fail(`round ${round}: ${failure.message}`);
    for (const entry of await listAllCheckpoints(target)) {
      published++;
      const damage = await verifyCheckpoint(entry.directory);
      if (damage.length > 0 || entry.manifest?.id !== parcel.manifest.id) {
        t.fail(`round ${round}: ${entry.vm}@${entry.name}: ${JSON.stringify(damage[0])}`);
      }
    }
    for (const vm of await target.listVms()) await rm(target.vmDirectory(vm), { recursive: true });
    const others = (await readdir(target.root)).filter(
      (name) => !['vms', 'ckptfs.json'].includes(name),
    );
    if (others.length > 0) t.fail(`round ${round}: ${others.join(', ')}`);
  }
  t.ok(refusals > mutations / 2, `${refusals} were refused, ${published} were harmless`);
  t.ok((await listAllCheckpoints(far)).length === 1);
});
