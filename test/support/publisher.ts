/** Publishes checkpoints until it is killed: `publisher STORE VM PREFIX`. Prints a line before the first. */
import { Publication } from '../../src/checkpoint/publish.js';
import { removeCheckpoint, findCheckpoint } from '../../src/checkpoint/checkpoints.js';
import { Store } from '../../src/checkpoint/store.js';
import { publish } from './checkpoints.js';

const [root = '', vm = '', prefix = ''] = process.argv.slice(2);
const store = await Store.open(root);
process.stdout.write('ready\n');
for (let number = 0; ; number++) {
  await publish(store, vm, `${prefix}-${number}`);
  // Every other one is removed again and every third save is abandoned: both can be cut short as well.
  if (number % 2 === 1)
    await removeCheckpoint(store, await findCheckpoint(store, `${vm}@${prefix}-${number}`));
  if (number % 3 === 2) await (await Publication.begin(store, vm, 'abandoned')).abandon();
}
