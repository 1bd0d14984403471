/** The symbolic links of the tree: checkpoints/latest, and by-time/ over the checkpoints of all VMs. */
import { timeName } from '../checkpoint/names.js';
import { CkptError } from '../errors.js';
import { ListedDirectory } from './directory.js';
import type { FsNode } from './node.js';
import { Symlink } from './symlink.js';
import type { CheckpointOutline, StoreView, VmView } from './view.js';

/** How long a listing of by-time/ serves look-ups: `ls -l` looks up every name of it. */
const listingMs = 500;

/** The link to the newest checkpoint that can be read. */
export async function latest(vm: VmView): Promise<FsNode | undefined> {
  for (const { name, createdAt } of [...(await vm.outlines())].reverse()) {
    try {
      if ((await vm.checkpoint(name)) !== undefined) return new Symlink(name, createdAt.getTime());
    } catch (error) {
      // Whoever looks at the damaged one itself is told.
      if (!(error instanceof CkptError)) throw error;
    }
  }
  return undefined;
}

async function links(view: StoreView): Promise<Map<string, FsNode>> {
  const all: { vm: string; checkpoint: CheckpointOutline }[] = [];
  for (const vm of await view.vmNames()) {
    const found = await view.vm(vm);
    if (found === undefined) continue;
    all.push(...(await found.outlines()).map((checkpoint) => ({ vm, checkpoint })));
  }
  all.sort((a, b) => a.checkpoint.createdAt.getTime() - b.checkpoint.createdAt.getTime());
  const named = new Map<string, FsNode>();
  for (const { vm, checkpoint } of all) {
    const time = timeName(checkpoint.createdAt);
    // The second checkpoint of one second is told apart by its own name.
    const name = named.has(time) ? `${time}_${vm}@${checkpoint.name}` : time;
    const target = `../vms/${vm}/checkpoints/${checkpoint.name}`;
    named.set(name, new Symlink(target, checkpoint.createdAt.getTime()));
  }
  return named;
}

/** The directory by-time/. */
export function byTime(view: StoreView, timeMs: number): FsNode {
  let listing = new Map<string, FsNode>();
  let listedMs = -Infinity;
  const refresh = async () => {
    listing = await links(view);
    listedMs = performance.now();
    return listing;
  };
  return new ListedDirectory(
    timeMs,
    async () => [...(await refresh()).keys()].map((name) => ({ name, kind: 'symlink' })),
    async (name) => {
      const fresh = performance.now() - listedMs < listingMs;
      return (fresh ? listing.get(name) : undefined) ?? (await refresh()).get(name);
    },
  );
}
