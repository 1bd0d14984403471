/** A process to be killed: `compactor STORE VM` compacts, telling on stdout when it starts and ends. */
import { compactVm } from '../../src/checkpoint/compact.js';
import { Store } from '../../src/checkpoint/store.js';

const [root = '', vm = ''] = process.argv.slice(2);
const store = await Store.open(root);
process.stdout.write('start\n');
await compactVm(store, vm);
process.stdout.write('end\n');
