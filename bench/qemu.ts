/**
 * The peer: qemu-system-riscv64 on the same kernel, initramfs and command line, controlled over QMP.
 *
 * Two ways to save are measured. `background`: the background-snapshot capability, write-protection by
 * userfaultfd while the guest runs. `stopped`: stop, migrate, cont. Both write through "exec:cat > FILE", as
 * QEMU 7.2 has no file: transport, with no bandwidth limit (its default is 128 MiB/s) and, unlike ckptfs,
 * without fsync. Pauses are taken from QEMU's own STOP and RESUME events, so the time until its vCPUs stand
 * still is not in them; in those of ckptfs it is.
 *
 * RAM is private memory, which is QEMU's default and lets its first snapshot meet huge pages; with a memfd there
 * are none, and that pause was longer in each try here. The process ends with this one (tied.ts) and on every path by close().
 */
import type { ChildProcess } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { linuxGuest } from '../test/support/guests.js';
import { ConsoleText } from './console.js';
import { awaitFilled, commandLine, MemoryGuest, type Workload } from './guest.js';
import { sleep } from './progress.js';
import { Qmp, type QmpEvent } from './qmp.js';
import { GuestRam, ramStart } from './ram.js';
import { ended, spawnTied } from './tied.js';

const program = 'qemu-system-riscv64';
const connectDeadlineMs = 10_000;
const pollMs = 20;
const contDeadlineMs = 5_000;
const unlimitedBytesPerSecond = 2 ** 50;

export interface QemuSave {
  pauseMs: number;
  totalMs: number;
}

function isOver({ event, data }: QmpEvent): boolean {
  return event === 'MIGRATION' && ['completed', 'failed'].includes(data?.status ?? '');
}

function isRunning(child: ChildProcess): boolean {
  return child.pid !== undefined && child.exitCode === null && child.signalCode === null;
}

export class Qemu {
  #ram: GuestRam | undefined;

  private constructor(
    readonly workload: Workload,
    readonly console: ConsoleText,
    private readonly child: ChildProcess,
    private readonly qmp: Qmp,
    private readonly scratch: string,
  ) {}

  /** Starts QEMU: booting the guest, or, with `incoming`, loading what save() wrote. */
  static async start(workload: Workload, incoming?: string): Promise<Qemu> {
    const scratch = await mkdtemp(join(tmpdir(), 'ckptfs-qemu-'));
    const socket = join(scratch, 'qmp');
    const memory = `${workload.memoryBytes / 2 ** 20}M`;
    const child = spawnTied(
      program,
      [
        ...['-M', 'virt', '-accel', 'tcg,thread=multi', '-smp', '1'],
        ...['-m', memory, '-kernel', linuxGuest.kernel, '-initrd', linuxGuest.initrd],
        ...['-append', commandLine(workload)],
        ...['-display', 'none', '-monitor', 'none', '-serial', 'stdio'],
        ...['-qmp', `unix:${socket},server=on,wait=off`],
        ...(incoming === undefined ? [] : ['-incoming', 'defer']),
      ],
      ['pipe', 'pipe', 'pipe'],
    );
    const console = new ConsoleText();
    let complaints = '';
    child.stdout?.on('data', (data: Buffer) => console.feed(data));
    child.stderr?.on('data', (data: Buffer) => (complaints += data.toString()));
    child.stdin?.on('error', () => {});
    const end = ended(child)
      .catch((error: unknown) => (complaints += String(error)))
      .then(() => console.end());
    try {
      for (const deadline = Date.now() + connectDeadlineMs; ;) {
        const qmp = await Qmp.connect(socket).catch(() => undefined);
        if (qmp) {
          await qmp.execute('migrate-set-capabilities', {
            capabilities: [{ capability: 'events', state: true }],
          });
          // Only now, or its events would be past before anybody listens.
          if (incoming !== undefined) {
            await qmp.execute('migrate-incoming', { uri: `exec:cat '${incoming}'` });
          }
          return new Qemu(workload, console, child, qmp, scratch);
        }
        if (!isRunning(child) || Date.now() > deadline) {
          throw new Error(`${program} does not start: ${complaints.trim() || 'no QMP socket'}`);
        }
        await sleep(pollMs);
      }
    } catch (error) {
      child.kill('SIGKILL');
      await end;
      await rm(scratch, { recursive: true, force: true });
      throw error;
    }
  }

  /** The workload of the guest that boots, once it has filled its memory. Asked for once. */
  async guest(): Promise<MemoryGuest> {
    const progressAddress = await awaitFilled(this.console);
    const answer = await this.qmp.execute<string>('human-monitor-command', {
      'command-line': `gpa2hva ${ramStart}`,
    });
    const [, address] = /is (0x[0-9a-f]+)/.exec(answer) ?? [];
    if (address === undefined) throw new Error(`QEMU does not tell where RAM is: ${answer}`);
    this.#ram = GuestRam.at(this.child.pid ?? 0, Number(address));
    return new MemoryGuest(this.#ram, progressAddress, this.console, (line) =>
      this.child.stdin?.write(line),
    );
  }

  /**
   * Writes the VM to a file, to its end: cancelling a background-snapshot leaves the guest of QEMU 7.2 hanging
   * in memory that stays protected.
   */
  async save(how: 'background' | 'stopped', file: string): Promise<QemuSave> {
    const { qmp } = this;
    await qmp.execute('migrate-set-parameters', { 'max-bandwidth': unlimitedBytesPerSecond });
    await qmp.execute('migrate-set-capabilities', {
      capabilities: [{ capability: 'background-snapshot', state: how === 'background' }],
    });
    const began = performance.now();
    const migrate = () => qmp.execute('migrate', { uri: `exec:cat > '${file}'` });
    let pauseUs: number;
    let status: string | undefined;
    if (how === 'background') {
      await migrate();
      // A snapshot that cannot begin fails before it stops the guest.
      const stopped = await qmp.next((event) => event.event === 'STOP' || isOver(event));
      if (isOver(stopped)) throw new Error(`background-snapshot: ${await this.#whyFailed()}`);
      const resumed = await qmp.next(({ event }) => event === 'RESUME');
      pauseUs = resumed.atUs - stopped.atUs;
      status = (await qmp.next(isOver)).data?.status;
    } else {
      await qmp.execute('stop');
      const stopped = await qmp.next(({ event }) => event === 'STOP');
      await migrate();
      status = (await qmp.next(isOver)).data?.status;
      await this.#cont();
      pauseUs = (await qmp.next(({ event }) => event === 'RESUME')).atUs - stopped.atUs;
    }
    if (status === 'failed') throw new Error(`migrate: ${await this.#whyFailed()}`);
    return { pauseMs: pauseUs / 1000, totalMs: performance.now() - began };
  }

  /** The migration is over some ms before QEMU takes its end for complete; until then it refuses. */
  async #cont(): Promise<void> {
    for (const deadline = Date.now() + contDeadlineMs; ;) {
      try {
        await this.qmp.execute('cont');
        return;
      } catch (error) {
        if (Date.now() > deadline || !String(error).includes('not finalized')) throw error;
        await sleep(1);
      }
    }
  }

  /** Waits until a guest that comes in is there, and lets it run: it was stopped when it was saved. */
  async resumed(): Promise<void> {
    const { data } = await this.qmp.next(isOver);
    if (data?.status !== 'completed') throw new Error(`-incoming: ${await this.#whyFailed()}`);
    await this.#cont();
    await this.qmp.next(({ event }) => event === 'RESUME');
  }

  async #whyFailed(): Promise<string> {
    const info = await this.qmp.execute<Record<string, string>>('query-migrate');
    return info['error-desc'] ?? `it is ${info.status}`;
  }

  /** Kills the process. May be called twice. */
  async close(): Promise<void> {
    this.#ram?.close();
    this.#ram = undefined;
    this.qmp.close();
    if (isRunning(this.child)) {
      const end = ended(this.child);
      this.child.kill('SIGKILL');
      await end;
    }
    await rm(this.scratch, { recursive: true, force: true });
  }
}
