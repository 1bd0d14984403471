/** Scheduled checkpoints: when they are taken, when not, and what is told of it. */
import { setTimeout } from 'node:timers/promises';
import t, { type Test } from 'tap';
import { CkptError } from '../src/errors.js';
import type { CheckpointEvent, ScheduleConfig } from '../src/types.js';
import { completeConfig } from '../src/vmm/config.js';
import { until } from './support/guests.js';
import { Schedule, type Scheduled } from '../src/vmm/schedule.js';
import { type ScheduledContext, scheduleOf } from '../src/vmm/scheduled.js';

const pollMs = 2;

/** A VM whose checkpoints end when the test says so. */
class FakeVm implements Scheduled {
  taken: string[] = [];
  pruned: number[] = [];
  missed: string[] = [];
  failed: CkptError[] = [];
  dirty = 0;
  obstacleNow: string | undefined;
  failure: CkptError | undefined;
  #end: () => void = () => undefined;
  #saving = false;
  /** Checkpoints end by themselves. */
  quick = true;

  obstacle = () => this.obstacleNow;
  dirtyBytes = () => this.dirty;
  async take(): Promise<string> {
    if (this.#saving) throw new Error('two at once');
    this.#saving = true;
    if (!this.quick) await new Promise<void>((resolve) => (this.#end = resolve));
    this.#saving = false;
    if (this.failure) throw this.failure;
    this.dirty = 0;
    this.taken.push(`auto-${this.taken.length}`);
    return this.taken.at(-1) ?? '';
  }
  end(): void {
    this.#end();
  }
  prune = (keep: number) => Promise.resolve(void this.pruned.push(keep));
  onMissed = (why: string) => void this.missed.push(why);
  onFailed = (error: CkptError) => void this.failed.push(error);
}

function rig(t: Test, config: ScheduleConfig, retryMs = 60_000) {
  const vm = new FakeVm();
  const schedule = new Schedule(config, vm, { writtenPollMs: pollMs, retryMs });
  t.teardown(() => schedule.stop());
  return { vm, schedule };
}

t.test('by an event: one at a time; what cannot be taken is told once', async (t) => {
  const { vm, schedule } = rig(t, { keep: 3 });
  schedule.start();
  vm.quick = false;
  schedule.declare();
  schedule.declare();
  schedule.declare();
  t.same(vm.missed, ['the one before is still being saved']);
  vm.end();
  await until('checkpoints', () => vm.taken.length === 1);
  await setTimeout(pollMs);
  t.same(vm.pruned, [3]);
  t.match(schedule.status(), { keep: 3, taken: 1, missed: 2, last: 'auto-0', lastAt: String });
  t.notOk('nextAt' in schedule.status());

  vm.obstacleNow = 'the VM is paused';
  schedule.declare();
  schedule.declare();
  t.same(vm.missed.slice(1), ['the VM is paused']);
  vm.obstacleNow = undefined;
  vm.quick = true;
  schedule.declare();
  await until('checkpoints', () => vm.taken.length === 2);
  vm.obstacleNow = 'the VM is paused';
  schedule.declare();
  t.equal(vm.missed.length, 3, 'told again after one was taken');
});

t.test('by time', async (t) => {
  const { vm, schedule } = rig(t, { everySeconds: 1 });
  schedule.start();
  t.match(schedule.status(), { everySeconds: 1, nextAt: /^20/, taken: 0 });
  await until('checkpoints', () => vm.taken.length === 2);
  await schedule.stop();
  t.notOk('nextAt' in schedule.status());
  schedule.declare();
  t.equal(vm.taken.length, 2, 'nothing after the end');
});

t.test('by what has been written', async (t) => {
  const { vm, schedule } = rig(t, { afterWrittenBytes: 1000 });
  schedule.start();
  vm.dirty = 999;
  await setTimeout(10 * pollMs);
  t.equal(vm.taken.length, 0);
  vm.obstacleNow = 'the VM is paused';
  vm.dirty = 1000;
  await setTimeout(10 * pollMs);
  t.same([vm.taken.length, vm.missed.length], [0, 0], 'a paused VM writes nothing more');
  vm.obstacleNow = undefined;
  await until('checkpoints', () => vm.taken.length === 1);
  await setTimeout(10 * pollMs);
  t.equal(vm.taken.length, 1, 'not before so much is written again');
});

t.test('a failure is told, and tried again after a while', async (t) => {
  const { vm, schedule } = rig(t, { afterWrittenBytes: 1000 }, 20 * pollMs);
  schedule.start();
  vm.failure = new CkptError('NO_SPACE', 'full');
  vm.dirty = 1000;
  await until('checkpoints', () => vm.failed.length === 2);
  t.match(vm.failed, [{ code: 'NO_SPACE' }, { code: 'NO_SPACE' }]);
  vm.failure = undefined;
  await until('checkpoints', () => vm.taken.length === 1);
});

t.test('stop waits for the one under way', async (t) => {
  const { vm, schedule } = rig(t, {});
  vm.quick = false;
  schedule.start();
  schedule.declare();
  let stopped = false;
  const stop = schedule.stop().then(() => (stopped = true));
  await setTimeout(pollMs);
  t.notOk(stopped);
  vm.end();
  await stop;
  t.equal(vm.taken.length, 1);
});

t.test('configurations', async (t) => {
  const complete = (schedule: object) => completeConfig({ name: 'vm', kernel: '/k', schedule });
  t.same(complete({ everySeconds: 600, keep: 5 }).schedule, { everySeconds: 600, keep: 5 });
  for (const wrong of [
    { everySeconds: 0 },
    { everySeconds: 1.5 },
    { everySeconds: 3_000_000 },
    { afterWrittenBytes: -1 },
    { keep: 5 },
    { every: '10m' },
  ]) {
    t.throws(() => complete(wrong), { code: 'USAGE' }, JSON.stringify(wrong));
  }
});

t.test('none is taken while a disk is being committed or compacted', (t) => {
  const told: CheckpointEvent[] = [];
  const disks = { underWay: undefined as string | undefined };
  const context = {
    config: {},
    machine: { status: () => ({ state: 'running' }) },
    saves: { take: () => new Promise(() => undefined), obstacle: () => undefined },
    ...{ disks, tell: (event: CheckpointEvent) => told.push(event) },
  };
  const schedule = scheduleOf(context as unknown as ScheduledContext);
  disks.underWay = 'disk vda is being compacted';
  schedule.declare();
  t.same(told, [{ type: 'missed', why: 'disk vda is being compacted' }]);
  t.equal(schedule.status().missed, 1);
  t.end();
});
