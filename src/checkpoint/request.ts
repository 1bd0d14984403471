/** What a request for a checkpoint may say, with its defaults: the one place that validates it. */
import { z } from 'zod';
import { CkptError } from '../errors.js';
import { codecs, drainModes } from '../native.js';
import type { CheckpointRequest } from '../types.js';
import { isName } from './names.js';

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
  limitBytesPerSecond: z.int().positive().optional(),
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
