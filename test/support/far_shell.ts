/**
 * A stand-in for the ssh client: runs what the far end is to run by a shell of this machine. So everything but the
 * network and ssh itself is as it is between two hosts.
 */
import { chmod, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { main } from './cli.js';

/** The environment in which ssh://any/PATH leads to PATH of this machine. */
export async function withoutNetwork(directory: string): Promise<NodeJS.ProcessEnv> {
  const path = join(directory, 'ssh');
  // The command is the last argument, as with ssh.
  await writeFile(path, '#!/bin/sh\nfor last; do :; done\nexec sh -c "exec $last"\n');
  await chmod(path, 0o755);
  return {
    ...process.env,
    DEBUG: undefined,
    CKPTFS_SSH: path,
    CKPTFS_REMOTE: `'${process.execPath}' '${main}'`,
  };
}
