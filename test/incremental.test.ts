/** Incremental checkpoints as the store sees them: what a save is given of its base and what is left of it. */
import { link, mkdir, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { findCheckpoint, openCheckpoint, removeCheckpoint } from '../src/checkpoint/checkpoints.js';
import { completeRequest } from '../src/checkpoint/request.js';
import { saveCheckpoint, type SaveContext } from '../src/checkpoint/save.js';
import type { Store } from '../src/checkpoint/store.js';
import { verifyCheckpoint } from '../src/checkpoint/verify.js';
import { CkptError } from '../src/errors.js';
import type { SaveRequest, SaveResult } from '../src/native.js';
import type { CheckpointRequest, VmConfig } from '../src/types.js';
import { fakeNative, sealed } from './support/checkpoints.js';
import { temporaryStore } from './support/guests.js';

const config: VmConfig = {
  name: 'vm',
  kernel: '/k',
  append: '',
  memoryBytes: 1 << 20,
  cpus: 1,
  disks: [],
  trace: 'soft',
  geometry: { pageBytes: 4096, pagesPerBlock: 8, blocksPerIoBlock: 8 },
};

const result: Omit<SaveResult, 'incremental' | 'segments'> = {
  pauseUs: 100,
  phasesUs: { quiesce: 1, arm: 2, state: 3, switch: 4, wait: 5 },
  totalUs: 1000,
  memoryBytes: 1 << 20,
  storedBytes: 100,
  blocks: { vcpu: 1, background: 2, zero: 3, parent: 4, duplicate: 5 },
  faults: 6,
  disks: [],
  deviceState: '{}',
  guestTicks: '1',
};

/**
 * Stands in for a machine: saves two new segments, and refers to the base's hot one alone, as if everything
 * in its cold one had been written since. Memory is tracked against the last good save.
 */
class FakeMachine {
  trackedId: string | undefined;
  asked: SaveRequest | undefined;
  /** Runs in the middle of a save. */
  during: (request: SaveRequest) => Promise<void> = () => Promise.resolve();

  status() {
    return {
      state: 'running' as const,
      instructions: 0,
      faults: 0,
      mappings: 0,
      guestTicks: '0',
      dirtyBytes: 0,
      ...(this.trackedId === undefined ? {} : { trackedId: this.trackedId }),
    };
  }
  saveProgress = () => undefined;
  cancelSave = () => undefined;
  proceedSave = () => undefined;

  async save(request: SaveRequest): Promise<SaveResult> {
    this.asked = request;
    const { id, directory, base } = request;
    await this.during(request);
    const names = [`${id}.hot`, `${id}.cold`];
    for (const name of names) await writeFile(join(directory, name), sealed(name));
    await writeFile(join(directory, 'memory.map'), `${id} map`);
    const inherited = [];
    if (base !== undefined) {
      const map = await readFile(join(base.directory, 'memory.map'), 'utf8');
      inherited.push(`${map.slice(0, 32)}.hot`);
    }
    this.trackedId = id;
    return { ...result, incremental: base !== undefined, segments: [...names, ...inherited] };
  }
}

async function rig(t: Test) {
  const { store, remove } = await temporaryStore();
  t.teardown(remove);
  await store.createVm('vm');
  const machine = new FakeMachine();
  const context: SaveContext = {
    store,
    config,
    machine,
    nextRedo: () => Promise.reject(new Error('there are no disks')),
  };
  const save = (name: string, request: CheckpointRequest = {}) =>
    saveCheckpoint(context, completeRequest({ name, ...request }));
  return { store, machine, save };
}

async function open(store: Store, name: string) {
  return openCheckpoint((await findCheckpoint(store, `vm@${name}`)).directory);
}

/** Every checkpoint of the VM opens and verifies, and nothing else lies beside them. */
async function isSound(t: Test, store: Store, names: string[]): Promise<void> {
  t.same((await readdir(store.checkpointsDirectory('vm'))).sort(), names);
  for (const name of names) {
    const { directory } = await open(store, name);
    t.same(await verifyCheckpoint(directory, { native: fakeNative }), [], name);
  }
}

t.test('the second checkpoint is an increment of the first, and whole by itself', async (t) => {
  const { store, machine, save } = await rig(t);
  const first = await save('one');
  t.equal(first.parentId, null);
  t.notOk(machine.asked?.base, 'nothing to refer to');
  let links: string[] = [];
  machine.during = async ({ directory }) => {
    links = (await readdir(directory)).sort();
  };
  const second = await save('two');
  t.same(links, [`${first.id}.cold`, `${first.id}.hot`, 'base'].sort(), 'linked before the save');
  t.match(machine.asked, { id: second.id, base: { id: first.id } });
  t.equal(second.parentId, first.id);
  const { manifest, directory } = await open(store, 'two');
  t.match(manifest, { parentId: first.id, stats: { blocks: { parent: 4, duplicate: 5 } } });
  t.same(
    (await readdir(directory)).sort(),
    [
      `${first.id}.hot`,
      `${second.id}.cold`,
      `${second.id}.hot`,
      'device-state.json',
      'manifest.json',
      'memory.map',
    ].sort(),
    'what the map does not name is not there',
  );
  const shared = join(directory, `${first.id}.hot`);
  t.equal((await stat(shared)).nlink, 2, 'a hard link');
  await isSound(t, store, ['one', 'two']);
  await removeCheckpoint(store, await findCheckpoint(store, 'vm@one'));
  t.equal((await stat(shared)).nlink, 1);
  await isSound(t, store, ['two']);
});

t.test('full when it is asked for, and when there is no base to be had', async (t) => {
  const { store, machine, save } = await rig(t);
  await save('one');
  t.equal((await save('full', { full: true })).parentId, null);
  t.notOk(machine.asked?.base);

  await removeCheckpoint(store, await findCheckpoint(store, 'vm@full'));
  t.equal((await save('removed')).parentId, null);

  const base = await open(store, 'removed');
  await rm(join(base.directory, `${base.manifest.id}.cold`));
  t.equal((await save('damaged')).parentId, null);
  t.same(
    (await readdir((await open(store, 'damaged')).directory)).length,
    5,
    'what was linked of the damaged one is gone',
  );
  await removeCheckpoint(store, await findCheckpoint(store, 'vm@removed'));

  machine.trackedId = '0'.repeat(32);
  t.equal((await save('unknown')).parentId, null);
  await isSound(t, store, ['damaged', 'one', 'unknown']);
});

t.test('a base that cannot be linked any more', async (t) => {
  const { store, machine, save } = await rig(t);
  await save('one');
  const { directory, manifest } = await open(store, 'one');
  const file = join(directory, `${manifest.id}.hot`);
  const hoard = join(store.root, 'links');
  await mkdir(hoard);
  let full = false;
  // ext4 has 65,000 links to a file; a filesystem without a limit is not tried to its end.
  for (let i = 0; i < 66_000 && !full; i++) {
    try {
      await link(file, join(hoard, String(i)));
    } catch (error) {
      full = error instanceof Error && 'code' in error && error.code === 'EMLINK';
      if (!full) throw error;
    }
  }
  const { parentId } = await save('two');
  t.equal(parentId, full ? null : manifest.id);
  t.equal(machine.asked?.base !== undefined, !full);
  await isSound(t, store, ['one', 'two']);
});

t.test('the base of another VM of the store: a restored VM goes on from it', async (t) => {
  const { store, machine, save } = await rig(t);
  await store.createVm('other');
  const machineOfOther = new FakeMachine();
  const { id } = await saveCheckpoint(
    {
      store,
      config: { ...config, name: 'other' },
      machine: machineOfOther,
      nextRedo: () => Promise.reject(new Error('there are no disks')),
    },
    completeRequest({ name: 'origin' }),
  );
  machine.trackedId = id;
  t.equal((await save('one')).parentId, id);
  await isSound(t, store, ['one']);
});

t.test('the base removed, and the save failed, in the middle of it', async (t) => {
  const { store, machine, save } = await rig(t);
  await save('one');
  machine.during = async () => removeCheckpoint(store, await findCheckpoint(store, 'vm@one'));
  const { parentId } = await save('two');
  t.ok(parentId, 'what has been linked stays');
  await isSound(t, store, ['two']);

  machine.during = () => Promise.reject(new CkptError('NO_SPACE', 'the store is full'));
  await t.rejects(save('three'), { code: 'NO_SPACE' });
  await isSound(t, store, ['two']);
  machine.during = () => Promise.resolve();
  t.ok((await save('three')).parentId, 'the next one is an increment again');
  await isSound(t, store, ['three', 'two']);
});

t.test('a map that names a segment which is not there is not published', async (t) => {
  const { store, machine, save } = await rig(t);
  await save('one');
  machine.during = async ({ directory }) => {
    for (const name of await readdir(directory)) {
      if (name.endsWith('.hot')) await rm(join(directory, name));
    }
  };
  await t.rejects(save('two'), /not there/);
  await isSound(t, store, ['one']);
});

t.test('requests', async (t) => {
  t.same(completeRequest({}), {
    codec: 'lz4',
    wait: true,
    suspend: false,
    drain: 'drain',
    full: false,
    copyDisks: false,
  });
  for (const wrong of [
    { name: '../x' },
    { codec: 'zip' },
    { wait: 1 },
    { drain: 'later' },
    { limitBytesPerSecond: 0 },
    { more: true },
    [],
    null,
  ]) {
    t.throws(() => completeRequest(wrong as CheckpointRequest), { code: 'USAGE' });
  }
});
