/**
 * RAM as an ELF core file: its header by the eyes of readelf, the note of a Linux guest, and a bare-metal guest in
 * the hands of gdb, through a mount and exported.
 */
import { readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import t from 'tap';
import { coreHeader, coreHeaderBytes, maxVmcoreinfoBytes } from '../src/checkpoint/elf_core.js';
import { findVmcoreinfo, noteAt } from '../src/checkpoint/vmcoreinfo.js';
import { CkptError } from '../src/errors.js';
import { bufferSource } from '../src/fs/value.js';
import { hartsOf } from '../src/vmm/core_file.js';
import { command, noFuse, noTool, temporary } from './fs-harness.js';
import { mountStore, run, start, withStore } from './support/cli.js';
import { bareGuest, until } from './support/guests.js';
import { runLinux } from './support/shell.js';

t.setTimeout(300_000);

const mib = 2 ** 20;
const ramBase = 0x8000_0000;
const info = Buffer.from(
  'OSRELEASE=6.12.48+deb13-riscv64\nBUILD-ID=00ff\nPAGESIZE=4096\nSYMBOL(init_uts_ns)=ffffffff81a0b0c0\n',
);

/** The note as the kernel keeps it. */
function keptNote(text: Uint8Array): Buffer {
  const header = Buffer.alloc(24);
  header.writeUInt32LE(11, 0);
  header.writeUInt32LE(text.length, 4);
  header.write('VMCOREINFO', 12);
  return Buffer.concat([header, text]);
}

t.test('the header of a core file', async (t) => {
  const harts = [0, 1, 2].map((hart) => ({
    pc: 0xffff_ffff_8000_0000n + BigInt(hart),
    x: Array.from({ length: 32 }, (_, i) => BigInt(hart * 100 + i)),
  }));
  const ranges = [
    { address: ramBase, bytes: mib },
    { address: 2 ** 40, bytes: 4096 },
  ];
  const path = join(await temporary(t), 'core');
  const whole = async (header: Buffer) => {
    await writeFile(path, Buffer.concat([header, Buffer.alloc(mib + 4096)]));
    return command('readelf', '-h', '-l', '-n', '-W', path);
  };
  const header = coreHeader(harts, ranges, info);
  t.equal(header.length, coreHeaderBytes(3, 2));
  t.equal(header.length % 65_536, 0);
  const text = await whole(header);
  t.match(text, /Class: +ELF64\n[^]*Type: +CORE \(Core file\)\n +Machine: +RISC-V\n/);
  t.match(text, /Flags: +0x5, RVC, double-float ABI\n/);
  t.match(
    text,
    /LOAD +0x010000 0x0000000080000000 0x0000000080000000 0x100000 0x100000 RWE 0x1000/,
  );
  t.match(
    text,
    /LOAD +0x110000 0x0000010000000000 0x0000010000000000 0x001000 0x001000 RWE 0x1000/,
  );
  t.equal(text.match(/CORE +0x00000178\tNT_PRSTATUS/g)?.length, 3);
  t.match(text, /VMCOREINFO +0x[0-9a-f]+\tUnknown note type: \(0x00000000\)/);
  t.notMatch(text, /[Ww]arning|[Ee]rror/);
  // Of the second hart: the pid, pc, x1 and x31, after the descriptions of two notes of 396 bytes.
  const second = header.subarray(64 + 3 * 56 + 396 + 20);
  t.equal(second.readInt32LE(32), 2);
  t.equal(second.readBigUInt64LE(112), 0xffff_ffff_8000_0001n);
  t.equal(second.readBigUInt64LE(120), 101n);
  t.equal(second.readBigUInt64LE(112 + 31 * 8), 131n);

  const without = coreHeader(harts, ranges);
  t.equal(without.length, header.length, 'its size does not depend on the note');
  t.notMatch(await whole(without), /VMCOREINFO|[Ww]arning|[Ee]rror/);
  t.equal(coreHeader(harts, ranges, Buffer.alloc(maxVmcoreinfoBytes, 'x')).length, header.length);
  t.throws(() => coreHeader(harts, ranges, Buffer.alloc(2 ** 17)), /too long/);
});

t.test('registers of a device state', async (t) => {
  const x = Array.from({ length: 32 }, (_, i) => `0x${i.toString(16)}`);
  const state = (harts: object[]) => JSON.stringify({ vcpus: { harts }, devices: {} });
  const harts = hartsOf(state([{ pc: '0xffffffffffffffff', x }]), 1, 'c');
  t.equal(harts[0]?.pc, 2n ** 64n - 1n);
  t.equal(harts[0]?.x[31], 31n);
  for (const bad of [state([]), state([{ pc: '0x0', x: [] }]), state([{ pc: 'x', x }]), '{}', '']) {
    t.throws(() => hartsOf(bad, 1, 'c'), { code: 'DAMAGED' }, bad);
  }
});

t.test('the note of a Linux kernel in RAM', async (t) => {
  const ram = Buffer.alloc(9 * mib);
  const find = () => findVmcoreinfo(bufferSource(ram));
  t.equal(await find(), undefined);
  keptNote(info).copy(ram, 8192 + 8);
  t.equal(await find(), undefined, 'not where a page begins');
  keptNote(Buffer.from('OSRELEASE=x\nno line\n')).copy(ram, 0);
  t.equal(await find(), undefined, 'not the text of one');
  for (const at of [4 * mib - 4096, 9 * mib - 4096, 8192]) {
    keptNote(info).copy(ram, at);
    t.same(await find(), info, `at ${at}`);
    ram.fill(0, at, at + 4096);
  }
  const long = Buffer.concat([info, Buffer.from(`NUMBER(x)=${'1'.repeat(4000 - info.length)}\n`)]);
  keptNote(long).copy(ram, 4 * mib - 4096);
  t.same(await find(), long);

  const damaged = bufferSource(ram);
  const { read } = damaged;
  damaged.read = (into, position) => {
    if (position < 4 * mib) return Promise.reject(new CkptError('DAMAGED', 'block 7'));
    return read(into, position);
  };
  t.equal(await findVmcoreinfo(damaged), undefined, 'nor where RAM is damaged');
  keptNote(info).copy(ram, 5 * mib);
  t.same(await findVmcoreinfo(damaged), info);

  const note = keptNote(info);
  t.same(noteAt(note), info);
  for (let at = 0; at < 24 + 10; at++) {
    const other = Buffer.from(note);
    other.writeUInt8(other.readUInt8(at) ^ 0x80, at);
    t.equal(noteAt(other), undefined, `byte ${at}`);
  }
  for (let length = 0; length < note.length; length++) {
    if (noteAt(note.subarray(0, length)) !== undefined) t.fail(`a note of ${length} bytes`);
  }
});

/** The last value that gdb printed under each name: `$name = value`. */
function gdbValues(text: string): Map<string, string> {
  return new Map([...text.matchAll(/^(.+) = (0x[0-9a-f]+)$/gm)].map((m) => [m[1]!, m[2]!]));
}

t.test('gdb on a bare-metal guest', { skip: noFuse() || noTool('gdb-multiarch') }, async (t) => {
  const cli = await withStore(t);
  const { store, ckptfs } = cli;
  const guest = run('random-writer', 'harts=2 mib=2');
  t.match(await ckptfs(...guest, '--cpus', '2', '--name', 'w', '--detach'), { status: 0 });
  await until('the guest writes', async () =>
    (await readFile(store.consoleLog('w'), 'utf8')).includes('random-writer harts=2'),
  );
  t.match(await ckptfs('checkpoint', 'w', '--name', 'one'), { status: 0 });
  t.match(await ckptfs('checkpoint', 'w', '--name', 'two'), { status: 0 });
  const checkpoint = join(await mountStore(t, cli), 'vms/w/checkpoints/two');
  const core = join(checkpoint, 'memory.elf');

  const flat = await readFile(join(checkpoint, 'memory'));
  const zero = Buffer.alloc(32_768);
  const data = (ram: Buffer) =>
    ram.length / zero.length -
    Array.from({ length: ram.length / zero.length }, (_, i) =>
      zero.compare(ram, i * zero.length, (i + 1) * zero.length),
    ).filter((order) => order === 0).length;
  const full = join(checkpoint, '../one/memory');
  t.equal((await stat(full)).blocks * 512, data(await readFile(full)) * zero.length, 'st_blocks');
  t.ok((await stat(join(checkpoint, 'memory'))).blocks * 512 >= data(flat) * zero.length);
  const { size } = await stat(core);
  t.equal(size, coreHeaderBytes(2, 1) + flat.length);
  const contents = await readFile(core);
  t.ok(contents.subarray(size - flat.length).equals(flat), 'RAM as it is');
  t.match(await command('readelf', '-h', '-l', '-n', core), /RISC-V[^]*NT_PRSTATUS[^]*NT_PRSTATUS/);

  const harts = hartsOf(await readFile(join(checkpoint, 'device-state.json'), 'utf8'), 2, '');
  const script = ['set pagination off', 'info threads', 'info symbol $pc'];
  for (const [i, { x }] of harts.entries()) {
    script.push(`thread ${i + 1}`, `printf "t${i} = 0x%lx\\n", $pc`);
    for (const register of x.keys()) {
      if (register > 0) script.push(`printf "t${i}x${register} = 0x%lx\\n", $x${register}`);
    }
    const counter = `*(unsigned long*)((char*)&status + ${64 * i})`;
    script.push(`printf "counter${i} = 0x%lx\\n", ${counter}`);
  }
  const commands = script.flatMap((line) => ['-ex', line]);
  const gdb = await command(
    'gdb-multiarch',
    ...['-nx', '-batch', bareGuest('random-writer'), core, ...commands],
  );
  const values = gdbValues(gdb);
  for (const [i, { pc, x }] of harts.entries()) {
    t.equal(values.get(`t${i}`), `0x${pc.toString(16)}`, `pc of hart ${i}`);
    for (const [register, value] of x.entries()) {
      if (register === 0) continue;
      t.equal(values.get(`t${i}x${register}`), `0x${value.toString(16)}`, `x${register} of ${i}`);
    }
    const counter = flat.readBigUInt64LE(0x210000 + 64 * i);
    t.ok(counter > 0n);
    t.equal(values.get(`counter${i}`), `0x${counter.toString(16)}`, 'a symbol in RAM');
  }
  t.match(gdb, /(bareMain|random|bare)\S* .*in section \.text/, 'it knows where the guest was');

  const exported = join(await temporary(t), 'core');
  t.match(await ckptfs('export', 'w@two', '--format', 'elf', '-o', exported), { status: 0 });
  t.ok(contents.equals(await readFile(exported)), 'ckptfs export gives the same file');
  t.ok((await stat(exported)).blocks * 512 < size / 2, 'with holes');
});

t.test('the note of a real kernel', { skip: noFuse() }, async (t) => {
  const cli = await withStore(t);
  const { store, ckptfs } = cli;
  const { child } = start(store, [...(await runLinux('shell')), '--name', 'l']);
  let text = '';
  child.stdout?.on('data', (piece: string) => (text += piece));
  await until('a shell', () => text.includes(' # '));
  t.match(await ckptfs('checkpoint', 'l', '--name', 'one'), { status: 0 });
  await ckptfs('stop', 'l');
  const core = join(await mountStore(t, cli), 'vms/l/checkpoints/one/memory.elf');
  const strings = (await readFile(core)).subarray(0, coreHeaderBytes(2, 1)).toString('latin1');
  t.match(strings, /VMCOREINFO\0\0OSRELEASE=[^\n]*riscv64\n/);
  t.match(strings, /\nSYMBOL\(swapper_pg_dir\)=[0-9a-f]{16}\n/);
  t.match(await command('readelf', '-n', core), /VMCOREINFO/);
});
