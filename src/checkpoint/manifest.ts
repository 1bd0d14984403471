/**
 * manifest.json: what one checkpoint is, and every file that belongs to it.
 *
 * The text is canonical: `JSON.stringify(value, null, 2)` and a line feed, with `checksum` the SHA-256 of
 * that same text while the field is empty. Reading demands that the bytes equal the canonical form of what
 * they say, so a change of any byte, white space included, is found: DAMAGED. The rule of the checksum is
 * the same in every format version, so that damage is told from a newer format (UNSUPPORTED).
 */
import { createHash } from 'node:crypto';
import { isAbsolute, join } from 'node:path';
import { z } from 'zod';
import { CkptError } from '../errors.js';
import { codecs } from '../native.js';
import { attempt, readSmallFile } from './files.js';
import { isName } from './names.js';
import { maxGroupVms } from './request.js';

export const manifestFile = 'manifest.json';
export const deviceStateFile = 'device-state.json';
export const memoryMapFile = 'memory.map';

/** A manifest has the oldest format that can say what it says: 3 has `group`. */
const formats = [2, 3] as const;
const newestFormat = 3;
/** Some KiB in practice; a thousand redo logs take 100 KiB. */
const maxManifestBytes = 4 << 20;
const maxFiles = 10_000;
const maxDisks = 64;

const count = z.int().nonnegative();
const decimal = z.string().regex(/^\d{1,30}$/);
const id = z.string().regex(/^[0-9a-f]{32}$/);
const name = z.string().refine(isName, 'not a name');
/** Relative, no empty component and none that starts with a dot: it cannot leave the directory. */
const path = z
  .string()
  .max(300)
  .regex(/^[A-Za-z0-9][A-Za-z0-9._-]*(\/[A-Za-z0-9][A-Za-z0-9._-]*)*$/);

const fileSchema = z.strictObject({
  path,
  bytes: count,
  /** Of the small files; segments and redo logs carry checksums of their own, block by block. */
  sha256: z
    .string()
    .regex(/^[0-9a-f]{64}$/)
    .optional(),
  /** Of memory.map: its last 8 bytes in hex, the checksum of all before them. */
  tail: z
    .string()
    .regex(/^[0-9a-f]{0,16}$/)
    .optional(),
});

const diskSchema = z.strictObject({
  id: name,
  access: z.enum(['readonly', 'direct', 'redo']),
  /** The parent, a file of this directory or an absolute path, and what it looked like: it must not change. */
  parent: z.string().min(1).max(4096),
  parentIdentity: z.strictObject({ bytes: count, mtimeNs: decimal }),
  /** Id of the last redo log that was committed into the parent before. */
  committed: id.optional(),
  /** Redo logs in this directory, oldest first. */
  redo: z.array(path).max(maxFiles),
});

const schema = z
  .strictObject({
    format: z.literal(formats),
    id,
    name,
    vm: name,
    createdAt: z.iso.datetime(),
    /** The checkpoint that this one refers to for memory that has not changed; null for a full one. */
    parentId: id.nullable(),
    /** The VMs that were checkpointed at the same moment, this one among them; the id is in all of their manifests. */
    group: z.strictObject({ id, vms: z.array(name).min(1).max(maxGroupVms) }).optional(),
    geometry: z.strictObject({ pageBytes: count, pagesPerBlock: count, blocksPerIoBlock: count }),
    memoryBytes: count,
    codec: z.enum(codecs),
    cpus: count,
    /** Guest time in the pause, in ticks of 100 ns. */
    guestTicks: decimal,
    /** The VM's configuration, to be validated by whoever builds a VM from it. */
    config: z.record(z.string(), z.unknown()),
    /** Every file of the directory but this one, by path. */
    files: z.array(fileSchema).max(maxFiles),
    disks: z.array(diskSchema).max(maxDisks),
    stats: z.strictObject({
      pauseUs: z.number().nonnegative(),
      phasesUs: z.record(z.string(), z.number().nonnegative()),
      totalUs: z.number().nonnegative(),
      storedBytes: count,
      blocks: z.strictObject({
        vcpu: count,
        background: count,
        zero: count,
        parent: count,
        duplicate: count,
      }),
      faults: count,
    }),
    checksum: z.string(),
  })
  .superRefine((manifest, context) => {
    const paths = new Set(manifest.files.map((file) => file.path));
    const demand = (holds: boolean, message: string) => {
      if (!holds) context.addIssue({ code: 'custom', message });
    };
    demand(manifest.format === formatOf(manifest), 'it has not the format of what it says');
    demand(manifest.group?.vms.includes(manifest.vm) !== false, 'its group is without its VM');
    demand(paths.size === manifest.files.length, 'a file is named twice');
    demand(!paths.has(manifestFile), 'it names itself');
    for (const needed of [deviceStateFile, memoryMapFile]) {
      demand(
        manifest.files.some((file) => file.path === needed && file.sha256 !== undefined),
        `${needed} is not named`,
      );
    }
    const map = manifest.files.find((file) => file.path === memoryMapFile);
    demand(map?.tail !== undefined, `the tail of ${memoryMapFile} is not named`);
    const disks = new Set(manifest.disks.map((disk) => disk.id));
    demand(disks.size === manifest.disks.length, 'a disk is named twice');
    for (const { parent } of manifest.disks) {
      demand(isAbsolute(parent) || paths.has(parent), `parent ${parent} is not among the files`);
    }
    for (const redo of manifest.disks.flatMap((disk) => disk.redo)) {
      demand(paths.has(redo), `redo log ${redo} is not among the files`);
    }
  });

/** The oldest format that can say it. */
function formatOf({ group }: { group?: unknown }): (typeof formats)[number] {
  return group === undefined ? 2 : newestFormat;
}

export type Manifest = z.infer<typeof schema>;
export type ManifestFile = Manifest['files'][number];
export type ManifestDisk = Manifest['disks'][number];
/** What a save knows; publishing adds the files and the checksum. */
export type ManifestDraft = Omit<Manifest, 'format' | 'files' | 'checksum'>;

/** What a manifest says but for its files: to be written again with others. */
export function draftOf(manifest: Manifest): ManifestDraft {
  const { id, name, vm, createdAt, parentId, geometry, memoryBytes, codec, cpus } = manifest;
  const { group, guestTicks, config, disks, stats } = manifest;
  return {
    ...{ id, name, vm, createdAt, parentId, geometry, memoryBytes, codec, cpus },
    ...(group === undefined ? {} : { group }),
    ...{ guestTicks, config, disks, stats },
  };
}

/** The segments: the files of memory beside its map. */
export function segmentFiles(manifest: Pick<Manifest, 'files'>): ManifestFile[] {
  return manifest.files.filter(
    ({ path }) => !path.includes('/') && path !== deviceStateFile && path !== memoryMapFile,
  );
}

function canonical(value: unknown): string {
  return `${JSON.stringify(value, null, 2)}\n`;
}

/** The checksum of a manifest whose own `checksum` counts as empty. */
function checksumOf(value: object): string {
  const text = canonical({ ...value, checksum: '' });
  return `sha256:${createHash('sha256').update(text).digest('hex')}`;
}

/** The text of manifest.json. Throws a plain Error when `draft` or `files` break the format: a defect. */
export function writeManifest(
  draft: ManifestDraft,
  files: ManifestFile[],
): { manifest: Manifest; text: string } {
  const manifest = schema.parse({ format: formatOf(draft), ...draft, files, checksum: '' });
  // The schema's key order is the document's; the checksum stays last because it is replaced in place.
  manifest.checksum = checksumOf(manifest);
  return { manifest, text: canonical(manifest) };
}

function damaged(where: string, what: string): CkptError {
  return new CkptError(
    'DAMAGED',
    `${where} is damaged (${what}); restore it from a backup or remove the checkpoint`,
    { file: where },
  );
}

/** Reads the bytes of a manifest; `where` names it in errors. DAMAGED or UNSUPPORTED. */
export function parseManifest(bytes: Uint8Array, where: string): Manifest {
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes));
  } catch {
    throw damaged(where, 'not JSON text');
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw damaged(where, 'not an object');
  }
  if (!('checksum' in value) || value.checksum !== checksumOf(value)) {
    throw damaged(where, 'its checksum differs');
  }
  if (Buffer.compare(Buffer.from(canonical(value)), bytes) !== 0) {
    throw damaged(where, 'not in canonical form');
  }
  if (
    'format' in value &&
    typeof value.format === 'number' &&
    value.format > 0 &&
    !formats.some((format) => format === value.format)
  ) {
    const which = value.format > newestFormat ? 'a newer' : 'an older';
    throw new CkptError(
      'UNSUPPORTED',
      `${where} has format ${value.format}, this version reads ${formats.join(' and ')}; use ${which} ckptfs`,
      { file: where, format: value.format },
    );
  }
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const issue = result.error.issues[0];
  throw damaged(where, `${issue?.path.join('.') ?? ''} ${issue?.message ?? 'is not valid'}`);
}

/** As much of a manifest as outlineOf() looks at: names have 64 characters at most. */
export const outlineEnds = { head: 512, tail: 120 };

/** What the text of a manifest, or that of its ends, says of itself, unchecked; undefined when it is not the text of one. */
export function outlineOf(
  text: string,
): { id: string; parentId?: string; createdAt: Date; checksum: string } | undefined {
  // The canonical form: every line has its place, and no name has a quote in it.
  const head =
    /^\{\n {2}"format": \d+,\n {2}"id": "([0-9a-f]{32})",\n {2}"name": "[^"\n]*",\n {2}"vm": "[^"\n]*",\n {2}"createdAt": "([^"\n]+)",\n {2}"parentId": (?:null|"([0-9a-f]{32})"),\n/;
  const [, id, createdAt = '', parentId] = head.exec(text) ?? [];
  const [, checksum] =
    /\n {2}"checksum": "(sha256:[0-9a-f]{64})"\n\}\n$/.exec(text.slice(-outlineEnds.tail)) ?? [];
  const time = new Date(createdAt);
  if (id === undefined || checksum === undefined || Number.isNaN(time.getTime())) return undefined;
  return { id, ...(parentId === undefined ? {} : { parentId }), createdAt: time, checksum };
}

/** Reads and checks the manifest of a checkpoint directory. NOT_FOUND, DAMAGED or UNSUPPORTED. */
export async function readManifest(directory: string): Promise<Manifest> {
  const file = join(directory, manifestFile);
  const bytes = await attempt(`cannot read ${file}`, () => readSmallFile(file, maxManifestBytes));
  return parseManifest(bytes, file);
}
