/**
 * RAM of a checkpoint as an ELF core file, with the registers of its harts: the same bytes as the flat file,
 * which stay with the addon, behind a header that is made here.
 */
import type { Checkpoint } from '../checkpoint/checkpoints.js';
import { type CoreHart, coreHeader, coreHeaderBytes } from '../checkpoint/elf_core.js';
import type { Manifest } from '../checkpoint/manifest.js';
import { findVmcoreinfo } from '../checkpoint/vmcoreinfo.js';
import { CkptError } from '../errors.js';
import { type ByteSource, openMemoryImage } from '../native.js';
import { memoryMap } from './devicetree.js';

/** Machines have one range of RAM. */
const ranges = 1;

/** The size of the core file, known without opening anything. */
export function coreFileBytes({
  cpus,
  memoryBytes,
}: Pick<Manifest, 'cpus' | 'memoryBytes'>): number {
  return coreHeaderBytes(cpus, ranges) + memoryBytes;
}

/** Opens the core file of a checkpoint. Looks through RAM for the note of a Linux guest. DAMAGED, IO. */
export async function openCoreFile(
  { directory, manifest, deviceState }: Checkpoint,
  notes = new KnownNotes(),
): Promise<ByteSource> {
  const { id, cpus, memoryBytes } = manifest;
  const harts = hartsOf(deviceState, cpus, directory);
  const vmcoreinfo = await notes.find(id, directory);
  const ram = { address: memoryMap.ramBase, bytes: memoryBytes };
  return openMemoryImage(directory, coreHeader(harts, [ram], vmcoreinfo));
}

/** What was found in the RAM of checkpoints, by their ids: it is looked through once. */
export class KnownNotes {
  /** Of up to 4 KiB. */
  static readonly maxEntries = 1024;
  readonly #known = new Map<string, Promise<Buffer | undefined>>();

  find(id: string, directory: string): Promise<Buffer | undefined> {
    const known = this.#known.get(id);
    if (known !== undefined) return known;
    if (this.#known.size >= KnownNotes.maxEntries) this.#known.clear();
    const finding = searchRam(directory);
    this.#known.set(id, finding);
    finding.catch(() => this.#known.delete(id));
    return finding;
  }
}

async function searchRam(directory: string): Promise<Buffer | undefined> {
  const ram = await openMemoryImage(directory);
  try {
    return await findVmcoreinfo(ram);
  } finally {
    ram.close();
  }
}

/** The registers of all harts, from the device state of a checkpoint (native/cpu/rv64/hart_state.cc). */
export function hartsOf(deviceState: string, cpus: number, where: string): CoreHart[] {
  try {
    const state = JSON.parse(deviceState) as { vcpus: { harts: { pc: string; x: string[] }[] } };
    const harts = state.vcpus.harts.map(({ pc, x }) => ({ pc: BigInt(pc), x: x.map(BigInt) }));
    if (harts.length === cpus && harts.every(({ x }) => x.length === 32)) return harts;
  } catch {
    // Told below.
  }
  throw new CkptError(
    'DAMAGED',
    `the device state in ${where} does not have the registers of ${cpus} harts; verify the checkpoint`,
    { directory: where },
  );
}
