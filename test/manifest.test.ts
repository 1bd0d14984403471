/** manifest.json: canonical, complete, and every changed byte is found. */
import t from 'tap';
import {
  draftOf,
  outlineOf,
  parseManifest,
  writeManifest,
  type ManifestFile,
} from '../src/checkpoint/manifest.js';
import { CkptError } from '../src/errors.js';
import { draft } from './support/checkpoints.js';

const id = '0123456789abcdef0123456789abcdef';
const files: ManifestFile[] = [
  { path: `${id}.cold`, bytes: 7 },
  { path: `${id}.hot`, bytes: 6 },
  { path: 'device-state.json', bytes: 5, sha256: 'a'.repeat(64) },
  { path: 'disks/vda/00000001.redo', bytes: 4 },
  { path: 'memory.map', bytes: 3, sha256: 'b'.repeat(64), tail: '00ff' },
];
const base = draft({ id, name: 'one', vm: 'vm1' });
const group = { id: 'f'.repeat(32), vms: ['vm1', 'vm2'] };

/** Seals any value the way the format does, to get past the checksum. */
async function seal(value: Record<string, unknown>): Promise<Buffer> {
  const { createHash } = await import('node:crypto');
  const text = `${JSON.stringify({ ...value, checksum: '' }, null, 2)}\n`;
  const checksum = `sha256:${createHash('sha256').update(text).digest('hex')}`;
  return Buffer.from(`${JSON.stringify({ ...value, checksum }, null, 2)}\n`);
}

t.test('what is written is read back', async (t) => {
  const { manifest, text } = writeManifest(base, files);
  t.same(parseManifest(Buffer.from(text), 'manifest.json'), manifest);
  t.equal(manifest.guestTicks, '12345678901234567890', 'beyond a double');
  t.match(text, /"checksum": "sha256:[0-9a-f]{64}"\n}\n$/);
  t.same(await seal(JSON.parse(text) as Record<string, unknown>), Buffer.from(text));
});

t.test('what it says of itself is read without a check', async (t) => {
  for (const parentId of [null, 'f'.repeat(32)]) {
    const { manifest, text } = writeManifest({ ...base, parentId }, files);
    t.same(outlineOf(text), {
      id,
      ...(parentId === null ? {} : { parentId }),
      createdAt: new Date(manifest.createdAt),
      checksum: manifest.checksum,
    });
    for (let length = 0; length < text.length; length++) {
      if (outlineOf(text.slice(0, length)) !== undefined) t.fail(`${length} bytes of it`);
    }
    for (const other of [text.replace('"createdAt"', '"at"'), text.replace('T', 'X'), ` ${text}`]) {
      t.equal(outlineOf(other), undefined);
    }
  }
});

t.test('written again from what it says, it is the same', async (t) => {
  for (const draft of [base, { ...base, group }, { ...base, parentId: 'e'.repeat(32) }]) {
    const { manifest, text } = writeManifest(draft, files);
    t.equal(writeManifest(draftOf(manifest), manifest.files).text, text);
  }
});

t.test('any changed byte is found', async (t) => {
  const bytes = Buffer.from(writeManifest(base, files).text);
  const missed: number[] = [];
  for (let at = 0; at < bytes.length; at++) {
    // One bit, the case of a letter, and all bits.
    for (const mask of [0x01, 0x20, 0xff]) {
      const changed = Buffer.from(bytes);
      changed.writeUInt8(changed.readUInt8(at) ^ mask, at);
      try {
        parseManifest(changed, 'manifest.json');
        missed.push(at);
      } catch (error) {
        if (!(error instanceof CkptError && error.code === 'DAMAGED')) throw error;
      }
    }
  }
  t.same(missed, []);
  t.ok(bytes.length > 1000);
});

t.test('cut short, grown, reordered and rewritten text is found', async (t) => {
  const { text } = writeManifest(base, files);
  const value = JSON.parse(text) as Record<string, unknown>;
  const { format, ...rest } = value;
  for (const [what, changed] of Object.entries({
    empty: '',
    short: text.slice(0, -1),
    'without its end': text.slice(0, text.length / 2),
    'with a line more': `${text}\n`,
    'with a byte order mark': `\ufeff${text}`,
    'in one line': JSON.stringify(value),
    'in another order': `${JSON.stringify({ ...rest, format }, null, 2)}\n`,
    'without a checksum': `${JSON.stringify({ ...value, checksum: undefined }, null, 2)}\n`,
    'with a key twice': text.replace('"format": 2,', '"format": 2,\n  "format": 2,'),
    'an array': '[]\n',
    'no object': '1\n',
  })) {
    t.throws(() => parseManifest(Buffer.from(changed), 'm'), { code: 'DAMAGED' }, what);
  }
  t.throws(() => parseManifest(Buffer.from([0xff, 0xfe]), 'm'), { code: 'DAMAGED' }, 'no UTF-8');
});

t.test('another format is told from damage', async (t) => {
  const value = JSON.parse(writeManifest(base, files).text) as Record<string, unknown>;
  for (const [format, message] of [
    [4, /format 4.*a newer/],
    [1, /format 1.*an older/],
  ] as const) {
    const other = await seal({ ...value, format, more: true });
    t.throws(() => parseManifest(other, 'm'), { code: 'UNSUPPORTED', message });
  }
});

t.test('sealed nonsense is refused', async (t) => {
  const value = JSON.parse(writeManifest(base, files).text) as Record<string, unknown>;
  const redo = { ...base.disks[0], redo: ['disks/vda/00000002.redo'] };
  const cases: Record<string, Record<string, unknown>> = {
    'a path upwards': { files: [...files, { path: '../x', bytes: 1 }] },
    'an absolute path': { files: [...files, { path: '/etc/passwd', bytes: 1 }] },
    'a dotted path': { files: [...files, { path: 'a/.b', bytes: 1 }] },
    'an empty part': { files: [...files, { path: 'a//b', bytes: 1 }] },
    'a file twice': { files: [...files, files[0]] },
    itself: { files: [...files, { path: 'manifest.json', bytes: 1 }] },
    'no memory.map': { files: files.slice(0, -1) },
    'memory.map without checksum': {
      files: [...files.slice(0, -1), { path: 'memory.map', bytes: 3 }],
    },
    'a negative size': { files: [...files, { path: 'x', bytes: -1 }] },
    'half a byte': { files: [...files, { path: 'x', bytes: 0.5 }] },
    'a redo log that is no file of it': { disks: [redo] },
    'a disk twice': { disks: [...base.disks, ...base.disks] },
    'a bad name': { name: 'latest' },
    'a bad VM': { vm: '..' },
    'a bad id': { id: 'xyz' },
    'an unknown key': { surprise: 1 },
    'an old format': { format: 0 },
    'a group in a format without': { group },
    'a format for a group without one': { format: 3 },
    'a group without its VM': { format: 3, group: { ...group, vms: ['vm2'] } },
    'a group of nobody': { format: 3, group: { ...group, vms: [] } },
  };
  for (const [what, change] of Object.entries(cases)) {
    const bytes = await seal({ ...value, ...change });
    t.throws(() => parseManifest(bytes, 'm'), { code: 'DAMAGED' }, what);
  }
});

t.test('one of a group has a format of its own, one by itself the one before', async (t) => {
  const alone = writeManifest(base, files);
  t.equal(alone.manifest.format, 2);
  t.notOk('group' in (JSON.parse(alone.text) as object));
  const { manifest, text } = writeManifest({ ...base, group }, files);
  t.match(manifest, { format: 3, group });
  t.same(parseManifest(Buffer.from(text), 'm'), manifest);
});

t.test('a defective draft is not written', async (t) => {
  t.throws(() => writeManifest({ ...base, memoryBytes: -1 }, files));
  t.throws(() => writeManifest(base, files.slice(0, -1)));
});
