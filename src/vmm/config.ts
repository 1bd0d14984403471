/**
 * The configuration of a VM: its schema, its defaults, and the checks that need the host's files.
 *
 * Sizes are bytes. Paths are made absolute here, so that a VM can be run again from any directory.
 */
import { access, constants } from 'node:fs/promises';
import { resolve } from 'node:path';
import { z } from 'zod';
import { isName } from '../checkpoint/names.js';
import type { Store } from '../checkpoint/store.js';
import { CkptError } from '../errors.js';
import { traceNames } from '../native.js';
import { memoryMap } from './devicetree.js';
import type { VmConfig, VmConfigInput } from '../types.js';

const mib = 2 ** 20;
/** One slot of the bus is the entropy device's. */
const maxDisks = memoryMap.virtio.slots - 1;

export const defaultGeometry = { pageBytes: 4096, pagesPerBlock: 8, blocksPerIoBlock: 8 };

const geometrySchema = z.strictObject({
  pageBytes: z
    .number()
    .int()
    .min(4096)
    .max(2 * mib),
  pagesPerBlock: z.number().int().min(1).max(256),
  blocksPerIoBlock: z.number().int().min(1).max(256),
});

const diskSchema = z.strictObject({
  id: z.string().refine(isName, 'has characters that a disk id cannot have'),
  path: z.string().min(1),
  mode: z.enum(['persistent', 'nonpersistent']),
  readonly: z.boolean(),
});

const count = z.int().positive();
/** setInterval() takes no more than 24 days. */
const maxIntervalSeconds = 2_000_000;

const scheduleSchema = z.strictObject({
  everySeconds: count.max(maxIntervalSeconds).optional(),
  afterWrittenBytes: count.optional(),
  keep: count.optional(),
});

/** A complete configuration, as stored in config.json and in manifests. */
export const vmConfigSchema = z.strictObject({
  name: z.string().refine(isName, 'has characters that a VM name cannot have'),
  kernel: z.string().min(1),
  initrd: z.string().min(1).optional(),
  append: z.string().max(2048),
  memoryBytes: z
    .number()
    .int()
    .min(mib)
    .max(2 ** 40),
  cpus: z.number().int().min(1).max(32),
  disks: z.array(diskSchema).max(maxDisks),
  trace: z.enum(traceNames),
  geometry: geometrySchema,
  schedule: scheduleSchema.optional(),
});

/** Fills in defaults and validates; USAGE names the field and what is wrong with it. */
export function completeConfig(input: VmConfigInput): VmConfig {
  const config = {
    append: '',
    memoryBytes: 512 * mib,
    cpus: 1,
    trace: traceNames[0],
    geometry: defaultGeometry,
    ...input,
    ...(input.kernel === undefined ? {} : { kernel: resolve(input.kernel) }),
    ...(input.initrd === undefined ? {} : { initrd: resolve(input.initrd) }),
    disks: (input.disks ?? []).map((disk, i) => ({
      id: `vd${String.fromCharCode(97 + i)}`,
      mode: 'nonpersistent',
      readonly: false,
      ...disk,
      ...(disk.path === undefined ? {} : { path: resolve(disk.path) }),
    })),
  };
  if (config.kernel === undefined) {
    throw new CkptError('USAGE', 'a VM needs a kernel; give --kernel FILE');
  }
  const parsed = vmConfigSchema.safeParse(config);
  if (!parsed.success) {
    const issue = parsed.error.issues[0];
    throw new CkptError(
      'USAGE',
      `VM configuration: ${issue?.path.join('.') ?? ''} ${issue?.message ?? 'is not valid'}`,
      { issues: parsed.error.issues },
    );
  }
  const { geometry, memoryBytes, disks } = parsed.data;
  const blockBytes = geometry.pageBytes * geometry.pagesPerBlock;
  if (memoryBytes % blockBytes !== 0) {
    throw new CkptError(
      'USAGE',
      `memory of ${memoryBytes} bytes is not a whole number of ${blockBytes / 1024} KiB memory blocks; ` +
        `use --memory ${Math.ceil(memoryBytes / mib)}M`,
    );
  }
  const { everySeconds, afterWrittenBytes, keep } = parsed.data.schedule ?? {};
  if (keep !== undefined && everySeconds === undefined && afterWrittenBytes === undefined) {
    throw new CkptError(
      'USAGE',
      'scheduled checkpoints are to be kept, but none are taken; give --checkpoint-every too',
    );
  }
  const ids = new Set(disks.map((disk) => disk.id));
  if (ids.size !== disks.length) {
    throw new CkptError('USAGE', 'two disks have the same id; give each its own with id=');
  }
  return parsed.data;
}

/** The configuration that a VM of the store was last started with. Errors are those of Store.readConfig. */
export async function storedConfig(store: Store, vm: string): Promise<VmConfig> {
  return completeConfig((await store.readConfig(vm)) as VmConfigInput);
}

/** Rejects with one clear error when a disk's parent is missing or may not be used as asked. */
export async function checkDisks(config: VmConfig): Promise<void> {
  for (const disk of config.disks) {
    const writes = disk.mode === 'persistent' && !disk.readonly;
    try {
      await access(disk.path, constants.R_OK | (writes ? constants.W_OK : 0));
    } catch (error) {
      const missing = (error as NodeJS.ErrnoException).code === 'ENOENT';
      throw new CkptError(
        missing ? 'NOT_FOUND' : 'IO',
        missing
          ? `disk ${disk.path} does not exist; check the path, or make it with ckptfs disk create`
          : `disk ${disk.path} cannot be ${writes ? 'written' : 'read'}; check its permissions` +
              (writes ? ', or use mode=nonpersistent' : ''),
        { path: disk.path },
      );
    }
  }
}
