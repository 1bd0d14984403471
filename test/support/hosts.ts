/**
 * Two hosts on this machine: network namespaces with a veth pair between them, the second with a real sshd that has
 * its own configuration, host key and authorized key in a directory of the test. Everything is gone with remove(),
 * and nothing but what was started here is ended.
 */
import { type ChildProcess, execFile, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { main } from './cli.js';
import { until } from './guests.js';

const run = promisify(execFile);
const sshd = '/usr/sbin/sshd';
const startLimitMs = 20_000;

/** Why two hosts cannot be made here; false when they can. */
export function noHosts(): string | false {
  if (process.getuid?.() !== 0) return 'not root';
  for (const program of ['ip', sshd, 'ssh', 'ssh-keygen']) {
    if (spawnSync('sh', ['-c', 'command -v "$0"', program]).status !== 0) return `no ${program}`;
  }
  const name = `ckptfs-probe-${process.pid}`;
  if (spawnSync('ip', ['netns', 'add', name]).status !== 0) return 'no network namespaces';
  spawnSync('ip', ['netns', 'delete', name]);
  return false;
}

export class Hosts {
  /** Of the far sshd. */
  readonly port = 2222;
  readonly near: string;
  readonly far: string;
  readonly #nearAddress: string;
  readonly #farAddress: string;
  #sshd: ChildProcess | undefined;
  readonly #children = new Set<ChildProcess>();

  private constructor(
    private readonly directory: string,
    number: number,
  ) {
    this.near = `ckptfs-near-${number}`;
    this.far = `ckptfs-far-${number}`;
    // A link of its own in namespaces of its own: the address meets no other.
    this.#nearAddress = '198.18.0.1';
    this.#farAddress = '198.18.0.2';
  }

  static async make(): Promise<Hosts> {
    const hosts = new Hosts(await mkdtemp(join(tmpdir(), 'ckptfs-hosts-')), process.pid);
    try {
      await hosts.#makeLink();
      await hosts.#startSshd();
      return hosts;
    } catch (error) {
      await hosts.remove();
      throw error;
    }
  }

  /** Whom ssh logs in as, and where. */
  get login(): string {
    return `root@${this.#farAddress}`;
  }

  /** A destination on the far host. */
  url(path: string): string {
    return `ssh://${this.login}:${this.port}${path}`;
  }

  /** The environment of a ckptfs on the near host that is to reach the far one. */
  get environment(): NodeJS.ProcessEnv {
    return {
      ...process.env,
      DEBUG: undefined,
      CKPTFS_SSH: this.ssh,
      CKPTFS_REMOTE: `${process.execPath} ${main}`,
    };
  }

  /** The ssh client's command line: it notices a link that is gone in a few seconds. */
  get ssh(): string {
    const known = join(this.directory, 'known_hosts');
    const options = [
      ...['ServerAliveInterval=1', 'ServerAliveCountMax=3', 'ConnectTimeout=5'],
      ...[`UserKnownHostsFile=${known}`, 'StrictHostKeyChecking=yes'],
      ...[`IdentityFile=${join(this.directory, 'key')}`, 'IdentitiesOnly=yes'],
    ];
    return ['ssh', '-F', '/dev/null', ...options.flatMap((option) => ['-o', option])].join(' ');
  }

  /** Starts a program on a host; ended with the hosts at the latest. */
  spawn(host: 'near' | 'far', program: string, args: readonly string[]): ChildProcess {
    const child = spawn('ip', ['netns', 'exec', this[host], program, ...args], {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: this.environment,
    });
    this.#children.add(child);
    child.once('close', () => this.#children.delete(child));
    return child;
  }

  /** Cuts the link, or restores it. */
  async link(state: 'up' | 'down'): Promise<void> {
    await run('ip', ['-n', this.near, 'link', 'set', 'veth0', state]);
  }

  /** Lets the link carry no more than so many Mbit/s each way. */
  async limit(mbit: number): Promise<void> {
    for (const host of [this.near, this.far]) {
      await run('ip', ['netns', 'exec', host, 'tc', ...this.#shape('replace', mbit)]);
    }
  }

  async unlimit(): Promise<void> {
    for (const host of [this.near, this.far]) {
      await run('ip', ['netns', 'exec', host, 'tc', 'qdisc', 'del', 'dev', 'veth0', 'root']);
    }
  }

  async remove(): Promise<void> {
    for (const child of [...this.#children, this.#sshd]) {
      if (child?.exitCode !== null || child.signalCode !== null) continue;
      const closed = once(child, 'close');
      child.kill('SIGKILL');
      await closed;
    }
    for (const host of [this.near, this.far]) {
      // What a connection of the far sshd still runs lives in its namespace.
      const { stdout } = spawnSync('ip', ['netns', 'pids', host], { encoding: 'utf8' });
      for (const pid of stdout.split('\n').filter((line) => line !== '')) {
        try {
          process.kill(Number(pid), 'SIGKILL');
        } catch {
          // It has just ended.
        }
      }
      spawnSync('ip', ['netns', 'delete', host]);
    }
    await rm(this.directory, { recursive: true, force: true });
  }

  #shape(verb: string, mbit: number): string[] {
    const limits = ['rate', `${mbit}mbit`, 'burst', '256k', 'latency', '100ms'];
    return ['qdisc', verb, 'dev', 'veth0', 'root', 'tbf', ...limits];
  }

  async #makeLink(): Promise<void> {
    for (const host of [this.near, this.far]) await run('ip', ['netns', 'add', host]);
    await run('ip', [
      ...['-n', this.near, 'link', 'add', 'veth0', 'type', 'veth'],
      ...['peer', 'name', 'veth0', 'netns', this.far],
    ]);
    for (const [host, address] of [
      [this.near, this.#nearAddress],
      [this.far, this.#farAddress],
    ] as const) {
      await run('ip', ['-n', host, 'address', 'add', `${address}/30`, 'dev', 'veth0']);
      await run('ip', ['-n', host, 'link', 'set', 'veth0', 'up']);
      await run('ip', ['-n', host, 'link', 'set', 'lo', 'up']);
    }
  }

  async #startSshd(): Promise<void> {
    const path = (name: string): string => join(this.directory, name);
    for (const name of ['key', 'host_key']) {
      await run('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-f', path(name)]);
    }
    const { stdout } = await run('ssh-keygen', ['-y', '-f', path('host_key')]);
    await writeFile(path('known_hosts'), `[${this.#farAddress}]:${this.port} ${stdout}`);
    const key = (await run('ssh-keygen', ['-y', '-f', path('key')])).stdout;
    await writeFile(path('authorized_keys'), key, { mode: 0o600 });
    await mkdir('/run/sshd', { recursive: true, mode: 0o755 }); // of its privilege separation
    await writeFile(
      path('sshd_config'),
      [
        `ListenAddress ${this.#farAddress}:${this.port}`,
        `HostKey ${path('host_key')}`,
        `AuthorizedKeysFile ${path('authorized_keys')}`,
        `PidFile ${path('sshd.pid')}`,
        'PermitRootLogin prohibit-password',
        'PasswordAuthentication no',
        'StrictModes no',
        'UsePAM no',
        'LogLevel ERROR',
        '',
      ].join('\n'),
    );
    this.#sshd = spawn(
      'ip',
      ['netns', 'exec', this.far, sshd, '-D', '-e', '-f', path('sshd_config')],
      { stdio: ['ignore', 'ignore', 'inherit'] },
    );
    const [program = '', ...options] = this.ssh.split(' ');
    const target = ['-p', String(this.port), this.login, 'true'];
    await until(
      'an answer of sshd',
      () =>
        spawnSync('ip', ['netns', 'exec', this.near, program, ...options, ...target]).status === 0,
      startLimitMs,
    );
  }
}
