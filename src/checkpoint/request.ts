/** What a request for a checkpoint may say, with its defaults: the one place that validates it. */
import { z } from 'zod';
import { CkptError } from '../errors.js';
import { codecs, drainModes } from '../native.js';
import type { CheckpointRequest } from '../types.js';
import { isId, isName } from './names.js';

/** As many as a manifest may name. */
export const maxGroupVms = 1000;

const schema = z.strictObject({
  name: z
    .string()
    .refine(isName, 'cannot name a checkpoint (letters, digits, ".", "_", "-")')
    .optional(),
  codec: z.enum(codecs).default('lz4'),
  wait: z.boolean().default(true),
  suspend: z.boolean().default(false),
  drain: z.enum(drainModes).default('drain'),
  full: z.boolean().default(false),
  copyDisks: z.boolean().default(false),
  limitBytesPerSecond: z.int().positive().optional(),
  group: z
    .strictObject({
      id: z.string().refine(isId, 'is not an id'),
      vms: z.array(z.string().refine(isName, 'is not a name')).min(1).max(maxGroupVms),
      holdLimitMs: z.int().positive().max(60_000).default(2000),
    })
    .optional(),
});

/** A request with all that has a default. */
export type CompleteRequest = z.infer<typeof schema>;

/** Validates a request and fills in the defaults; USAGE names what is wrong. */
export function completeRequest(request: CheckpointRequest): CompleteRequest {
  const parsed = schema.safeParse(request);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  throw new CkptError(
    'USAGE',
    `checkpoint request: ${issue?.path.join('.') ?? ''} ${issue?.message ?? 'is not valid'}; correct it`,
    { issues: parsed.error.issues },
  );
}
