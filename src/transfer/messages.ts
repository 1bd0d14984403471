/**
 * The control messages of the transfer protocol (docs/transfer-protocol.md), and the limits on them. Every message
 * that comes from the other side passes parseMessage() before anything looks at it.
 */
import { z } from 'zod';
import { CkptError, type ErrorCode, isErrorCode, toCkptError } from '../errors.js';
import { isName } from '../checkpoint/names.js';

export const protocolVersion = 2;
/** A manifest has 4 MiB at most, and twice that as a string of JSON; the rest is for what goes with it. */
export const maxControlBytes = 12 << 20;
const maxManifestChars = 4 << 20;
/** Of one `read`. */
export const maxReadBytes = 1 << 20;
const maxFiles = 10_000;
const maxListed = 100_000;
const maxTextChars = 4096;

const count = z.int().nonnegative();
const name = z.string().refine(isName, 'not a name');
const id = z.string().regex(/^[0-9a-f]{32}$/);
const text = z.string().max(maxTextChars);

/** A checkpoint that a store has, as `list` tells of it. */
const listedSchema = z.strictObject({
  vm: name,
  name,
  createdAt: z.iso.datetime(),
  /** Absent when it is damaged, as all below. */
  id: id.optional(),
  memoryBytes: count.optional(),
  bytes: count.optional(),
});

const schemas = {
  hello: { protocol: z.int(), program: text, store: text.optional(), freeBytes: count.optional() },
  ping: {},
  list: { vm: name.optional() },
  checkpoints: { checkpoints: z.array(listedSchema).max(maxListed) },
  offer: {
    /** The text of manifest.json. */
    manifest: z.string().max(maxManifestChars),
    /** For each of its files, in its order: what tells its contents from any other, and what they take on disk. */
    files: z.array(z.strictObject({ id, allocatedBytes: count })).max(maxFiles),
  },
  present: {},
  wanted: {
    /** Files by their place in the manifest, and from where on. */
    files: z.array(z.strictObject({ index: count, offset: count })).max(maxFiles),
  },
  file: { index: count, offset: count },
  end: { checksum: z.string().regex(/^[0-9a-f]{16}$/) },
  commit: {},
  published: {},
  fetch: { vm: name, name },
  /** Asks for an offer too, of which the other side then reads what it likes. */
  open: { vm: name, name },
  read: { index: count, offset: count, bytes: z.int().min(1).max(maxReadBytes) },
  sum: { index: count },
  close: {},
  remove: { vm: name, name, id },
  removed: {},
  /** What has come of checkpoints of a VM that are not published is of no use any more. */
  forget: { vm: name },
  forgotten: {},
  error: { code: text, message: text, data: z.record(z.string(), z.unknown()) },
};

const messageSchema = z.discriminatedUnion('type', [
  z.strictObject({ type: z.literal('hello'), ...schemas.hello }),
  z.strictObject({ type: z.literal('ping'), ...schemas.ping }),
  z.strictObject({ type: z.literal('list'), ...schemas.list }),
  z.strictObject({ type: z.literal('checkpoints'), ...schemas.checkpoints }),
  z.strictObject({ type: z.literal('offer'), ...schemas.offer }),
  z.strictObject({ type: z.literal('present'), ...schemas.present }),
  z.strictObject({ type: z.literal('wanted'), ...schemas.wanted }),
  z.strictObject({ type: z.literal('file'), ...schemas.file }),
  z.strictObject({ type: z.literal('end'), ...schemas.end }),
  z.strictObject({ type: z.literal('commit'), ...schemas.commit }),
  z.strictObject({ type: z.literal('published'), ...schemas.published }),
  z.strictObject({ type: z.literal('fetch'), ...schemas.fetch }),
  z.strictObject({ type: z.literal('open'), ...schemas.open }),
  z.strictObject({ type: z.literal('read'), ...schemas.read }),
  z.strictObject({ type: z.literal('sum'), ...schemas.sum }),
  z.strictObject({ type: z.literal('close'), ...schemas.close }),
  z.strictObject({ type: z.literal('remove'), ...schemas.remove }),
  z.strictObject({ type: z.literal('removed'), ...schemas.removed }),
  z.strictObject({ type: z.literal('forget'), ...schemas.forget }),
  z.strictObject({ type: z.literal('forgotten'), ...schemas.forgotten }),
  z.strictObject({ type: z.literal('error'), ...schemas.error }),
]);

export type Message = z.infer<typeof messageSchema>;
export type MessageOf<Type extends Message['type']> = Extract<Message, { type: Type }>;
export type Offer = MessageOf<'offer'>;
export type ListedCheckpoint = z.infer<typeof listedSchema>;

/** The other side did what the protocol does not have: USAGE, with `data.protocol` set. */
export function violation(what: string): CkptError {
  return new CkptError(
    'USAGE',
    `the other side broke the transfer protocol (${what}); use the same version of ckptfs on both sides`,
    { protocol: protocolVersion },
  );
}

/** Reads a control frame. USAGE when it is no message. */
export function parseMessage(bytes: Uint8Array): Message {
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
  } catch {
    throw violation('a control frame is not JSON');
  }
  const parsed = messageSchema.safeParse(value);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  throw violation(`${issue?.path.join('.') ?? ''} ${issue?.message ?? 'is not valid'}`.trim());
}

/** A failure as it is told to the other side. */
export function errorMessage(failure: unknown): MessageOf<'error'> {
  const { code, message, data } = toCkptError(failure);
  const short = message.slice(0, maxTextChars);
  // Data of ours is small; what is not JSON or not small is left out rather than cut.
  const json = JSON.stringify(data);
  return { type: 'error', code, message: short, data: json.length > maxTextChars ? {} : data };
}

/** A failure that the other side has told. */
export function remoteError({ code, message, data }: MessageOf<'error'>): CkptError {
  const known: ErrorCode = isErrorCode(code) ? code : 'IO';
  return new CkptError(known, `at the far end: ${message}`, { ...data, remote: true });
}
