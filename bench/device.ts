/** The device below the files that are measured. */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { sleep } from './progress.js';

/**
 * The device is done with everything before: removed files that it discards, what lies in its caches. Else each
 * measurement would pay for the one before.
 */
export async function rest(): Promise<void> {
  await promisify(execFile)('sync');
  await sleep(2000);
}
