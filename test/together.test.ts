/**
 * Several VMs at one moment (requirement D1): three of them pass numbered messages to each other over their
 * consoles, and in a restored group no message was received that was not sent. Whatever goes wrong, no VM is held
 * for long, and of the group there is nothing.
 */
import { readFile } from 'node:fs/promises';
import t, { type Test } from 'tap';
import { findCheckpoint, listCheckpointNames } from '../src/checkpoint/checkpoints.js';
import { verifyCheckpoint } from '../src/checkpoint/verify.js';
import { newId } from '../src/checkpoint/names.js';
import { CkptError } from '../src/errors.js';
import type { Store } from '../src/checkpoint/store.js';
import type { ConsoleStream, GroupStep } from '../src/types.js';
import { VmClient } from '../src/vmm/client.js';
import { checkpointTogether, type GroupMember } from '../src/vmm/together.js';
import { type Finished, run, withStore } from './support/cli.js';
import { until } from './support/guests.js';

t.setTimeout(300_000);

const names = ['a', 'b', 'c'];
const steps: GroupStep[] = ['prepared', 'quiet', 'held', 'cut', 'saved'];
const connect = (store: Store, vm: string) => VmClient.connect(vm, store.controlSocket(vm));
const clientsOf = (store: Store) => Promise.all(names.map((name) => connect(store, name)));
const printed = (store: Store, vm: string) => readFile(store.consoleLog(vm), 'latin1');

/** Three VMs that send numbered messages; see test/guests/bare/messenger.c. */
async function messengers(t: Test) {
  const { store, ckptfs } = await withStore(t);
  const done = async (...args: string[]): Promise<Finished> => {
    const finished = await ckptfs(...args);
    if (finished.status !== 0) throw new Error(`${args.join(' ')}: ${finished.stderr}`);
    return finished;
  };
  await Promise.all(
    names.map((name) => done(...run('messenger', 'mib=4'), '--name', name, '--detach')),
  );
  return { store, ckptfs, done };
}

/** Lets each VM have what the one before it prints, the first what the last one prints, until the end. */
async function ring(t: Test, store: Store, vms: string[]): Promise<() => void> {
  const consoles = await Promise.all(vms.map(async (vm) => (await connect(store, vm)).console()));
  const relay = async (from: ConsoleStream, to: ConsoleStream | undefined): Promise<void> => {
    for await (const bytes of from.readable) to?.write(bytes);
  };
  for (const [i, one] of consoles.entries()) {
    relay(one, consoles[(i + 1) % consoles.length]).catch(() => undefined); // a VM is stopped
  }
  const end = (): void => consoles.forEach((one) => one.end());
  t.teardown(end);
  return end;
}

/** How many messages a VM has sent and received, by its own account. */
async function counts(store: Store, vm: string): Promise<{ sent: number; received: number }> {
  const { readable, write, end } = await (await connect(store, vm)).console();
  write(Buffer.from('?'));
  let text = '';
  for await (const bytes of readable) {
    text += Buffer.from(bytes).toString('latin1');
    const [, sent, received] = /sent (\d+) received (\d+)\r?\n/.exec(text) ?? [];
    if (sent === undefined) continue;
    end();
    return { sent: Number(sent), received: Number(received) };
  }
  throw new Error(`${vm} did not answer: ${text}`);
}

/** Each VM has received a good many messages since. */
async function flows(store: Store, vms: string[]): Promise<void> {
  for (const vm of vms) {
    const { received } = await counts(store, vm);
    await until(`${vm} receives`, async () => (await counts(store, vm)).received > received + 100);
  }
}

/**
 * Restores a checkpoint of each VM, and returns for whom it holds that it had received what the one before it
 * had not sent: the first message that a restored VM prints whole is one that it had not sent whole.
 */
async function restored(
  store: Store,
  done: (...args: string[]) => Promise<Finished>,
  checkpoint: string,
): Promise<{ vms: string[]; ahead: string[] }> {
  const vms = names.map((name) => `${name}-${checkpoint}`);
  await Promise.all(
    names.map((name, i) =>
      done('restore', `${name}@${checkpoint}`, '--name', vms[i] ?? '', '--detach'),
    ),
  );
  const ahead: string[] = [];
  for (const [i, vm] of vms.entries()) {
    const before = vms.at(i - 1) ?? '';
    const { received } = await counts(store, vm);
    let first: string | undefined;
    await until(`${before} sends`, async () => {
      [, first] = /m(\d+) \1\r?\n/.exec(await printed(store, before)) ?? [];
      return first !== undefined;
    });
    if (received >= Number(first)) ahead.push(`${vm}: ${received} received, next is ${first}`);
  }
  return { vms, ahead };
}

t.test('a group that was checkpointed together is of one moment', async (t) => {
  const { store, done } = await messengers(t);
  await ring(t, store, names);
  for (let round = 0; round < 5; round++) {
    await flows(store, names);
    const how = round % 2 === 0 ? [] : ['--full', '--in-flight'];
    const taken = await done('checkpoint', ...names, '--name', `g${round}`, '--json', ...how);
    const results = taken.objects.filter(({ type }) => type === 'result');
    t.same(
      results.map(({ vm }) => vm),
      names,
    );
    const [group] = new Set(results.map((result) => result.group));
    const pauses = results.map(({ pauseUs }) => Number(pauseUs) / 1000);
    t.comment(`pauses: ${pauses.join(', ')} ms`);
    for (const name of names) {
      const { directory, manifest } = await findCheckpoint(store, `${name}@g${round}`);
      t.match(manifest, { format: 3, group: { id: group, vms: names } });
      t.same(await verifyCheckpoint(directory), []);
    }
    const { vms, ahead } = await restored(store, done, `g${round}`);
    t.same(ahead, [], 'nobody has received what was not sent');
    const end = await ring(t, store, vms);
    await flows(store, vms);
    end();
    for (const vm of vms) t.notMatch(await printed(store, vm), /FAIL/, 'and all go on');
    await Promise.all(vms.map((vm) => done('stop', vm)));
  }
  for (const name of names) t.notMatch(await printed(store, name), /FAIL/);
});

t.test('checkpoints that were taken one by one are not, which shows', async (t) => {
  const { store, done } = await messengers(t);
  await ring(t, store, names);
  let shown = false;
  for (let round = 0; round < 5 && !shown; round++) {
    await flows(store, names);
    for (const name of names) await done('checkpoint', name, '--name', `s${round}`);
    const { ahead } = await restored(store, done, `s${round}`);
    t.comment(ahead.join('; '));
    shown = ahead.length > 0;
  }
  t.ok(shown, 'a message was received that was not sent');
});

/** Takes a checkpoint as one of a group whose others come along as far as `last`; resolves with its failure. */
async function stuckAt(
  client: VmClient,
  last: GroupStep,
  holdLimitMs: number,
  atLast: () => void,
  signal?: AbortSignal,
): Promise<unknown> {
  const group = { id: newId(), vms: names, holdLimitMs };
  let error: unknown;
  await until('the save before has ended', async () => {
    error = await client
      .checkpoint({ name: 'stuck', group }, undefined, signal, (step) => {
        if (step === last) atLast();
        else void client.proceed(group.id, step);
      })
      .then(
        () => undefined,
        (failure: unknown) => failure,
      );
    return !isSaving(error);
  });
  return error;
}

/** A VM that clears up after a save answers that it is saving. */
function isSaving(error: unknown): boolean {
  return error instanceof CkptError && error.message.includes('is saving checkpoint');
}

/** Takes a group of checkpoints once no VM clears up after another any more. */
async function takeTogether(...args: Parameters<typeof checkpointTogether>) {
  for (;;) {
    try {
      return await checkpointTogether(...args);
    } catch (error) {
      if (!isSaving(error)) throw error;
    }
  }
}

async function runsOn(t: Test, client: VmClient): Promise<void> {
  const { instructions } = await client.status();
  await until('the guest goes on', async () => {
    const now = await client.status();
    return now.state === 'running' && now.instructions > instructions;
  });
  t.pass('the guest goes on');
}

t.test('a VM that waits for others in vain', async (t) => {
  const { store } = await messengers(t);
  const client = await connect(store, 'a');
  for (const step of steps) {
    const gone = new AbortController();
    const error = await stuckAt(client, step, 60_000, () => gone.abort(), gone.signal);
    t.match(error, { code: 'CANCELLED' }, `its coordinator goes away at step ${step}`);
    await runsOn(t, client);
    t.same(await listCheckpointNames(store, 'a'), []);
  }
  for (const step of ['quiet', 'held', 'cut'] as const) {
    const stands = new Promise<boolean>((resolve, reject) => {
      const atStep = async (): Promise<boolean> => {
        const { instructions } = await client.status();
        await new Promise((later) => setTimeout(later, 20));
        return (await client.status()).instructions === instructions;
      };
      stuckAt(client, step, 500, () => void atStep().then(resolve, reject)).then((error) => {
        t.match(error, { code: 'BUSY' }, `a limit ends step ${step}`);
      }, reject);
    });
    t.equal(await stands, step !== 'quiet', 'the guest stands still from held on');
    await runsOn(t, client);
    t.same(await listCheckpointNames(store, 'a'), []);
  }
  await t.rejects(client.proceed(newId(), 'held'), { code: 'USAGE' });
  await t.rejects(client.checkpoint({ group: { id: 'x', vms: names } }), { code: 'USAGE' });
  await until('the save before has ended', () =>
    client.checkpoint({ name: 'after' }).then(
      () => true,
      (error: unknown) => !isSaving(error),
    ),
  );
  const { directory } = await findCheckpoint(store, 'a@after');
  t.same(await verifyCheckpoint(directory), []);
});

t.test('one that fails ends the others, and leaves nothing', async (t) => {
  const { store, ckptfs, done } = await messengers(t);
  const clients = await clientsOf(store);
  const [a, b, c] = clients as [VmClient, VmClient, VmClient];
  const nothing = async (): Promise<void> => {
    for (const client of clients) await runsOn(t, client);
    for (const name of ['a', 'c']) t.same(await listCheckpointNames(store, name), []);
  };
  await done('checkpoint', 'b', '--name', 'taken');
  const taken = await ckptfs('checkpoint', ...names, '--name', 'taken');
  t.match(taken, { status: 1, stderr: /^ckptfs: VM b: checkpoint b@taken exists already/m });
  await nothing();
  for (const step of steps) {
    // As a failure of the VM itself at any step would be: its process answers no more.
    const failing: GroupMember = {
      vm: 'b',
      proceed: (group, at) =>
        at === step ? Promise.reject(new Error('no answer')) : b.proceed(group, at),
      checkpoint: b.checkpoint.bind(b),
    };
    await t.rejects(takeTogether([a, failing, c], { name: step }), {
      message: /^VM b: no answer/,
      data: { vm: 'b' },
    });
    if (step !== 'saved') await nothing();
  }

  const { pid } = await b.status();
  const stopping: GroupMember = {
    vm: 'b',
    proceed: b.proceed.bind(b),
    checkpoint: (request, onProgress, signal, onStep) =>
      b.checkpoint(request, onProgress, signal, (step) => {
        if (step === 'quiet') process.kill(pid, 'SIGSTOP');
        onStep?.(step);
      }),
  };
  await t.rejects(
    takeTogether([a, stopping, c], { name: 'stopped', holdLimitMs: 300 }),
    { code: 'BUSY' },
    'the process of one is stopped while the others wait for it',
  );
  for (const client of [a, c]) await runsOn(t, client);
  process.kill(pid, 'SIGCONT');
  await runsOn(t, b);
  for (const name of names) {
    t.notOk((await listCheckpointNames(store, name)).includes('stopped'));
  }
  const { checkpoints } = await takeTogether(clients, { name: 'after' });
  t.match(
    checkpoints,
    names.map((vm) => ({ vm, name: 'after', state: 'published' })),
  );
  for (const wrong of [[], [a, a]]) {
    await t.rejects(checkpointTogether(wrong), { code: 'USAGE' });
  }
  t.match(await ckptfs('checkpoint', ...names, '--no-wait'), { status: 2 });
  t.match(await ckptfs('checkpoint', 'a', 'none'), { status: 10 });
});
