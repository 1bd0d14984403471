/**
 * A VM copied to another store while it runs (requirements E1, E2): 512 MiB, and a guest that writes to 30 MiB of them a
 * second, which is less than either way carries. To a directory of the same disk, and to a far host over ssh.
 */
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { type ClonedTo, cloneTo } from '../src/transfer/clone_to.js';
import { openTarget } from '../src/transfer/open.js';
import type { Hosts } from '../test/support/hosts.js';
import { mib } from './guest.js';
import { withRandomWriter } from './random_writer.js';
import { median, row, type Row, rowsOf } from './row.js';

const bench = 'transfer';

/** Rows of both ways; without hosts of the first alone. */
export async function clones(hosts: Hosts | undefined, quick: boolean): Promise<Row[]> {
  const ways = [
    ...[{ part: 'clone to a directory', url: (path: string) => path, ssh: {} }],
    ...(hosts === undefined ? [] : [overSsh(hosts)]),
  ];
  const rows: Row[] = [];
  for (const { part, url, ssh } of ways) {
    const open = (path: string) => () => openTarget(url(path), { create: true, ...ssh });
    rows.push(...(await rowsOf(bench, part, async () => rowsIn(part, await measure(open, quick)))));
  }
  return rows;
}

function overSsh(hosts: Hosts) {
  const { environment, near, ssh } = hosts;
  return {
    part: 'clone over ssh',
    url: (path: string) => hosts.url(path),
    ssh: { ssh: `ip netns exec ${near} ${ssh}`, remoteProgram: environment.CKPTFS_REMOTE },
  };
}

async function measure(
  open: (path: string) => () => ReturnType<typeof openTarget>,
  quick: boolean,
): Promise<ClonedTo[]> {
  return withRandomWriter(quick, async ({ vm, store, directory }) => {
    const far = join(directory, 'far');
    const done: ClonedTo[] = [];
    for (let i = 0; i < (quick ? 1 : 5); i++) {
      done.push(await cloneTo(store, vm.name, open(far)));
      await rm(far, { recursive: true });
    }
    return done;
  });
}

function rowsIn(part: string, all: readonly ClonedTo[]): Row[] {
  const middle = (of: (done: ClonedTo) => number): number => median(all.map(of));
  const name = (what: string): string => `${part}, 512 MiB, 30 MiB/s written: ${what}`;
  const rounds = middle((done) => done.rounds.length + 1);
  return [
    row(bench, name('pause of the last round'), middle(lastPauseMs), 'ms', { atMost: 10 }),
    row(
      bench,
      name('last round'),
      middle(({ last }) => last.ms),
      'ms',
    ),
    row(bench, name('rounds'), rounds, ''),
    row(bench, name('copied'), middle((done) => done.shippedBytes) / mib, 'MiB'),
    row(bench, name('lost guest work'), middle(({ lostWork }) => lostWork.lostMs) / 1000, 's'),
    row(bench, name('in all'), middle((done) => done.totalMs) / 1000, 's'),
  ];
}

const lastPauseMs = ({ last }: ClonedTo): number => last.checkpoint.pauseUs / 1000;
