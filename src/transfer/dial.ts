/**
 * How the far end is reached: the ssh client that the user has, with the user's keys, configuration and known hosts.
 * Loads nothing, so that it is on its way before the rest of a command is there.
 */
import { type ChildProcessByStdio, spawn } from 'node:child_process';
import type { Readable, Writable } from 'node:stream';
import type { Destination } from './destination.js';

/** How the far end is reached; by default from the environment. */
export interface SshOptions {
  /** The ssh command with options of its own, in words: $CKPTFS_SSH, else ssh. */
  ssh?: string | undefined;
  /** ckptfs at the far end, as its shell finds it: $CKPTFS_REMOTE, else ckptfs. */
  remoteProgram?: string | undefined;
  /** A store is made where nothing is. */
  create?: boolean;
}

export type SshDestination = Extract<Destination, { kind: 'ssh' }>;

/** Nobody is there to be asked; a link that is gone is noticed within half a minute. */
const sshOptions = ['BatchMode=yes', 'ServerAliveInterval=10', 'ServerAliveCountMax=3'];

/** The client, on its way or there. */
export interface Dialled {
  child: ChildProcessByStdio<Writable, Readable, Readable>;
  /** How it ended; `error`: it could not be started. */
  ended: Promise<{ code: number | null; error?: string }>;
}

/** Starts `ckptfs receive` at the far end; whoever is given the client ends it. */
export function dial(destination: SshDestination, options: SshOptions = {}): Dialled {
  const existing = options.create === true ? [] : ['--existing'];
  const [ssh, args] = farCommand(destination, ['receive', ...existing, destination.path], options);
  const child = spawn(ssh, args, { stdio: ['pipe', 'pipe', 'pipe'] });
  const ended = new Promise<{ code: number | null; error?: string }>((resolve) => {
    child.once('close', (code) => resolve({ code }));
    child.once('error', (error) => resolve({ code: null, error: error.message }));
  });
  return { child, ended };
}

/** What is to be started here for ckptfs with these words to run at the far end. */
export function farCommand(
  { host, user, port }: SshDestination,
  args: readonly string[],
  options: SshOptions = {},
): [program: string, args: string[]] {
  const [ssh = 'ssh', ...own] = words(options.ssh ?? process.env.CKPTFS_SSH ?? 'ssh');
  const remote = options.remoteProgram ?? process.env.CKPTFS_REMOTE ?? 'ckptfs';
  return [
    ssh,
    [
      ...own,
      ...sshOptions.flatMap((option) => ['-o', option]),
      ...(port === undefined ? [] : ['-p', String(port)]),
      ...['-T', '--', user === undefined ? host : `${user}@${host}`],
      [remote, ...args.map(quoted)].join(' '),
    ],
  ];
}

function words(text: string): string[] {
  return text.split(/\s+/).filter((word) => word !== '');
}

/** A word for the shell at the far end; the names of commands and options are theirs as they are. */
function quoted(text: string): string {
  if (/^[a-z-]+$/.test(text)) return text;
  return `'${text.replaceAll("'", "'\\''")}'`;
}
