/** The software vCPU: an integer loop, and the boot of Debian's kernel to its /init. */
import { readFile } from 'node:fs/promises';
import { bareConfig, boot, linuxGuest, temporaryStore } from '../test/support/guests.js';
import { median, row, type Row } from './row.js';

const repetitions = 3;
const mib = 2 ** 20;

export async function cpu(): Promise<Row[]> {
  const { store, remove } = await temporaryStore();
  try {
    const mips: number[] = [];
    for (let i = 0; i < repetitions; i++) {
      const { vm, watch } = await boot(
        store,
        bareConfig('integer-loop', 'rounds=20000', { name: `loop${i}` }),
      );
      const [, instructions, ticks] = await watch.printed(/instructions=(\d+) ticks=(\d+) crc/);
      await vm.close();
      mips.push(Number(instructions) / (Number(ticks) / 10));
    }
    const rows = [row('cpu', 'integer loop, 1 hart', median(mips), 'M instr/s', { atLeast: 150 })];
    const cmdline = (await readFile(linuxGuest.cmdline, 'utf8')).trim();
    for (const cpus of [1, 2]) {
      const seconds: number[] = [];
      const speeds: number[] = [];
      for (let i = 0; i < repetitions; i++) {
        const began = performance.now();
        const { vm, watch } = await boot(store, {
          name: `linux-${cpus}-${i}`,
          kernel: linuxGuest.kernel,
          initrd: linuxGuest.initrd,
          append: `${cmdline} ckptfs.mode=idle`,
          memoryBytes: 512 * mib,
          cpus,
        });
        await watch.printed(/ckptfs-guest: init/);
        const elapsed = (performance.now() - began) / 1000;
        seconds.push(elapsed);
        speeds.push(vm.status().instructions / elapsed / 1e6);
        await vm.close();
      }
      const harts = `${cpus} hart${cpus > 1 ? 's' : ''}`;
      rows.push(
        row('cpu', `Debian's kernel to /init, ${harts}`, median(seconds), 's', { atMost: 5 }),
        row('cpu', `speed during that boot, ${harts}`, median(speeds), 'M instr/s'),
      );
    }
    return rows;
  } finally {
    await remove();
  }
}
