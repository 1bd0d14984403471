/**
 * A process to be killed: restores a checkpoint lazily, then takes one checkpoint after another, telling
 * on stdout what it is about to do. Arguments: store, checkpoint.
 */
import { findCheckpoint } from '../../src/checkpoint/checkpoints.js';
import { Store } from '../../src/checkpoint/store.js';
import { Vm } from '../../src/vmm/vm.js';

const [, , storePath = '', reference = ''] = process.argv;
const store = await Store.open(storePath);
const entry = await findCheckpoint(store, reference);
const tell = (what: string): void => void process.stdout.write(`${what}\n`);

tell('restore');
const vm = await Vm.restore(store, entry, { lazy: true });
await vm.start();
for (let i = 0; ; i++) {
  tell('save');
  await vm.checkpoint({
    name: `c-${process.pid}-${i}`,
    codec: i % 2 === 0 ? 'lz4' : 'none',
    wait: true,
  });
}
