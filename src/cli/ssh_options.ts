/** The options of commands that take a DEST: how the far end is reached. */
import type { Command } from 'commander';

export interface SshOptions {
  ssh?: string;
  remoteProgram?: string;
}

export const destinationHelp = 'a directory, or ssh://[user@]host[:port]/path';

export function addSshOptions(command: Command): Command {
  return command
    .option('--ssh <command>', 'the ssh client, with options (default: $CKPTFS_SSH, else ssh)')
    .option(
      '--remote-program <command>',
      'ckptfs at the far end (default: $CKPTFS_REMOTE, else ckptfs)',
    );
}

/** As the transfer layer takes them. */
export function sshOptionsOf({ ssh, remoteProgram }: SshOptions): SshOptions {
  return {
    ...(ssh === undefined ? {} : { ssh }),
    ...(remoteProgram === undefined ? {} : { remoteProgram }),
  };
}
