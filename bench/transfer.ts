/**
 * Checkpoints from one store to another: to a directory beside cp, to a far host over ssh beside rsync, a second
 * backup after a hundredth of memory has changed, a recovery and a protection over ssh, and clones of a VM that runs.
 * Two hosts are network namespaces with a veth pair and a real sshd. Ours ends when all is durable, so the peers are
 * followed by sync of their filesystem.
 */
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Store } from '../src/checkpoint/store.js';
import { backupVm, type BackupSummary } from '../src/transfer/backup.js';
import { openTarget } from '../src/transfer/open.js';
import { temporaryStore } from '../test/support/guests.js';
import { Hosts, noHosts } from '../test/support/hosts.js';
import { Ckptfs } from './ckptfs.js';
import { clones } from './clone_to.js';
import { near, run } from './command.js';
import { fullGuest, gib, type MemoryGuest, mib } from './guest.js';
import { protection } from './protection.js';
import { makeRandomFile } from './random_file.js';
import { median, missing, row, type Row, rowsOf } from './row.js';

const bench = 'transfer';
const vm = 'web';
const blockBytes = 32 << 10;
const repetitionsOf = (quick: boolean): number => (quick ? 1 : 5);

/** A VM with a checkpoint, and the disk that it lies on. */
interface Source {
  store: Store;
  ckptfs: Ckptfs;
  guest: MemoryGuest;
  disk: string;
  checkpoint: string;
  directory: string;
  beside: string;
}

async function seconds(work: () => Promise<unknown>): Promise<number> {
  const begun = performance.now();
  await work();
  return (performance.now() - begun) / 1000;
}

/** Sends a checkpoint that is there to a store in a directory. */
async function send(source: Source, checkpoint: string, path: string): Promise<BackupSummary> {
  await using target = await openTarget(path, { create: true });
  const [summary] = await backupVm(source.store, vm, target, { checkpoint });
  if (!summary) throw new Error('nothing was sent');
  return summary;
}

async function toDirectory(source: Source, quick: boolean): Promise<Row[]> {
  return rowsOf(bench, 'to a directory', async () => {
    const [ours, cps]: [number[], number[]] = [[], []];
    for (let i = 0; i < repetitionsOf(quick); i++) {
      const [own, other] = [join(source.beside, 'own'), join(source.beside, 'other')];
      let bytes = 0;
      const took = await seconds(
        async () => ({ totalBytes: bytes } = await send(source, source.checkpoint, own)),
      );
      ours.push(bytes / mib / took);
      await rm(own, { recursive: true });
      await mkdir(other);
      const cp = 'cp -a -- "$1" "$2" "$3" && sync -f "$3"';
      const words = ['-c', cp, 'cp', source.directory, source.disk, other];
      cps.push(bytes / mib / (await seconds(() => run('sh', words))));
      await rm(other, { recursive: true });
    }
    return [
      row(
        bench,
        'backup to a directory',
        median(ours),
        'MiB/s',
        { ratioAtLeast: 0.9 },
        { name: 'cp and sync', value: median(cps) },
      ),
    ];
  });
}

async function overSsh(source: Source, hosts: Hosts, quick: boolean): Promise<Row[]> {
  return rowsOf(bench, 'over ssh', async () => {
    const [ours, rsyncs]: [number[], number[]] = [[], []];
    const dest = (path: string): string => hosts.url(join(source.beside, path));
    for (let i = 0; i < repetitionsOf(quick); i++) {
      let bytes = 0;
      const words = ['backup', vm, '--checkpoint', source.checkpoint, '--to', dest('own')];
      const took = await seconds(async () => {
        const [result] = await near(hosts, source.store.root, ...words);
        bytes = Number(result?.totalBytes);
      });
      ours.push(bytes / mib / took);
      await rm(join(source.beside, 'own'), { recursive: true });
      const other = join(source.beside, 'other');
      await mkdir(other);
      // All of it is on this machine's filesystem.
      const rsync = 'rsync -aW -e "$1 -p $2" -- "$3" "$4" "$5:$6" && sync -f "$6"';
      const at = [hosts.ssh, String(hosts.port), source.directory, source.disk, hosts.login, other];
      const inNear = ['netns', 'exec', hosts.near, 'sh', '-c', rsync, 'rsync', ...at];
      rsyncs.push(bytes / mib / (await seconds(() => run('ip', inNear))));
      await rm(other, { recursive: true });
    }
    return [
      row(
        bench,
        'backup over ssh',
        median(ours),
        'MiB/s',
        { ratioAtLeast: 0.9 },
        { name: 'rsync -W and sync', value: median(rsyncs) },
      ),
    ];
  });
}

/** A hundredth of all memory blocks is written between two backups. */
async function second(source: Source): Promise<Row[]> {
  return rowsOf(bench, 'second backup', async () => {
    const path = join(source.beside, 'second');
    const first = await send(source, source.checkpoint, path);
    await source.guest.touch(Math.ceil(source.ckptfs.vm.config.memoryBytes / blockBytes / 100));
    const { name } = await source.ckptfs.save({ codec: 'none' });
    const again = await send(source, name, path);
    await rm(path, { recursive: true });
    const name1 = 'second backup after 1 % change';
    return [
      row(
        bench,
        `${name1}: sent`,
        again.sentBytes / mib,
        'MiB',
        { ratioAtMost: 0.05 },
        { name: 'the first', value: first.sentBytes / mib },
      ),
      row(
        bench,
        `${name1}: time`,
        again.totalMs,
        'ms',
        {},
        { name: 'the first', value: first.totalMs },
      ),
    ];
  });
}

/** Until the guest runs, before its checkpoint has come: from the start of the command, and from the call of the restore. */
async function recovery(source: Source, hosts: Hosts, quick: boolean): Promise<Row[]> {
  return rowsOf(bench, 'recovery over ssh', async () => {
    const path = join(source.beside, 'own');
    const summary = await send(source, source.checkpoint, path);
    const [fromCommand, fromCall]: [number[], number[]] = [[], []];
    for (let i = 0; i < repetitionsOf(quick); i++) {
      const { store, remove } = await temporaryStore();
      try {
        const words = [
          'recover',
          hosts.url(path),
          `${vm}@${summary.name}`,
          '--detach',
          '--no-wait',
        ];
        const begunMs = Date.now();
        const [{ firstInstructionMs } = {}] = await near(hosts, store.root, ...words);
        const [{ restore } = {}] = await near(hosts, store.root, 'info', vm);
        const { begunAt } = restore as { begunAt: string };
        fromCall.push(Number(firstInstructionMs));
        fromCommand.push(Date.parse(begunAt) - begunMs + Number(firstInstructionMs));
        await near(hosts, store.root, 'stop', vm);
      } finally {
        await remove();
      }
    }
    await rm(path, { recursive: true });
    const size = `${Math.round(summary.totalBytes / mib)} MiB`;
    return [
      row(bench, `recovery over ssh, ${size}: first instruction`, median(fromCommand), 'ms', {
        atMost: 1000,
      }),
      row(bench, 'recovery over ssh: from the call to that', median(fromCall), 'ms'),
    ];
  });
}

/** All rows; `quick` only shows that they can be made. */
export async function transfer(quick: boolean): Promise<Row[]> {
  const { store, remove } = await temporaryStore();
  const why = noHosts();
  const hosts = why === false ? await Hosts.make() : undefined;
  try {
    const beside = join(store.root, '..');
    const disk = join(beside, 'disk.img');
    await makeRandomFile(disk, (quick ? 16 : 64) * mib);
    const workload = fullGuest(quick ? gib / 4 : gib);
    const ckptfs = await Ckptfs.start(store, vm, workload, { disks: [{ path: disk }] });
    const rows: Row[] = [];
    try {
      const guest = await ckptfs.guest();
      const { name, entry } = await ckptfs.save({ codec: 'none' });
      const source = {
        store,
        ckptfs,
        guest,
        disk,
        beside,
        checkpoint: name,
        directory: entry.directory,
      };
      rows.push(...(await toDirectory(source, quick)));
      if (hosts) {
        rows.push(...(await overSsh(source, hosts, quick)));
        rows.push(...(await recovery(source, hosts, quick)));
        rows.push(...(await protection(hosts, quick)));
      } else {
        rows.push(missing(bench, 'over ssh', why));
      }
      rows.push(...(await second(source)));
    } finally {
      await ckptfs.close();
    }
    return [...rows, ...(await clones(hosts, quick))];
  } finally {
    await hosts?.remove();
    await remove();
  }
}
