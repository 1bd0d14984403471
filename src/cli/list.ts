/** ckptfs list: the VMs of the store and their states. */
import type { Command } from 'commander';
import { withContext } from './context.js';
import { formatSize } from './sizes.js';
import { summarizeVm, type VmSummary } from './vms.js';

export function registerList(program: Command): void {
  program
    .command('list')
    .description('list the VMs of the store')
    .action(
      withContext(async (context) => {
        const store = await context.openStore();
        const rows: VmSummary[] = [];
        for (const vm of await store.listVms()) {
          rows.push({ ...(await summarizeVm(store, vm)), status: undefined });
        }
        context.output.results(rows, {
          columns: [
            { title: 'VM', value: (row) => row.vm },
            { title: 'STATE', value: (row) => row.state },
            { title: 'PID', value: (row) => String(row.pid ?? '-'), right: true },
            {
              title: 'MEMORY',
              value: (row) => (row.memoryBytes === undefined ? '-' : formatSize(row.memoryBytes)),
              right: true,
            },
            { title: 'CPUS', value: (row) => String(row.cpus ?? '-'), right: true },
            { title: 'CHECKPOINTS', value: (row) => String(row.checkpoints), right: true },
          ],
          brief: (row) => row.vm,
          none: 'no VMs; start one with "ckptfs run"',
        });
        return undefined;
      }),
    );
}
