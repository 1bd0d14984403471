/** A Linux guest with a shell on its console, in a VM process of its own. */
import type { ChildProcess } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import type { Store } from '../../src/checkpoint/store.js';
import { start } from './cli.js';
import { linuxGuest, until } from './guests.js';

/** Words that run the Linux guest in `mode` (test/guests/linux/init.c). */
export async function runLinux(mode: string): Promise<string[]> {
  const cmdline = (await readFile(linuxGuest.cmdline, 'utf8')).trim();
  return [
    ...['run', '--kernel', linuxGuest.kernel, '--initrd', linuxGuest.initrd],
    ...['--memory', '128M', '--cpus', '2', '--append', `${cmdline} ckptfs.mode=${mode}`],
  ];
}

export class GuestShell {
  #text = '';
  #ended = false;

  private constructor(readonly child: ChildProcess) {
    child.stdout?.on('data', (piece: string) => (this.#text += piece));
    child.once('close', () => (this.#ended = true));
  }

  /** Boots the guest with further options of `ckptfs run`; resolves when its shell waits. */
  static async boot(store: Store, ...options: string[]): Promise<GuestShell> {
    return GuestShell.#attach(store, [...(await runLinux('shell')), ...options]);
  }

  /** Boots a VM that was stopped, as it was. */
  static again(store: Store, vm: string): Promise<GuestShell> {
    return GuestShell.#attach(store, ['run', '--name', vm]);
  }

  static async #attach(store: Store, args: string[]): Promise<GuestShell> {
    const { child } = start(store, args);
    const shell = new GuestShell(child);
    await shell.#printed(/ # /, 'a prompt');
    return shell;
  }

  /** What a command line prints, behind its own echo; rejects unless it ends with 0. */
  async run(command: string): Promise<string> {
    this.#text = '';
    this.child.stdin?.write(`${command}; echo "=$?="\n`);
    // The echo of what was typed has no digits there.
    const [before, status] = await this.#printed(/[^]*=(\d+)=/, command);
    if (status !== '0') throw new Error(`the guest's ${command} ended with ${status}: ${before}`);
    return before;
  }

  async #printed(pattern: RegExp, what: string): Promise<RegExpExecArray> {
    await until(`of the guest: ${what}`, () => this.#ended || pattern.test(this.#text));
    const found = pattern.exec(this.#text);
    if (!found) throw new Error(`the VM ended without ${what}: ${this.#text}`);
    return found;
  }
}
