/**
 * The flattened device tree that tells a guest what machine it runs on.
 *
 * Format: Devicetree Specification v0.4, chapter 5 (version 17, big-endian). The memory map is that of
 * native/devices/memory_map.h; the interrupt controller has one S-mode context per hart.
 */

/** A property value: nothing, strings, or 32-bit cells. */
type Value = true | string | readonly string[] | readonly number[];

export interface DeviceTreeNode {
  properties: Record<string, Value>;
  children?: Record<string, DeviceTreeNode>;
}

/** Guest-physical addresses and interrupt sources; equal to native/devices/memory_map.h. */
export const memoryMap = {
  plic: { base: 0x0c00_0000, length: 0x0400_0000 },
  uart: { base: 0x1000_0000, length: 0x100, source: 10 },
  generation: { base: 0x1001_0000, length: 0x1000, source: 11 },
  rtc: { base: 0x1001_1000, length: 0x1000, source: 12 },
  virtio: { base: 0x1000_1000, stride: 0x1000, slots: 8, source: 1 },
  ramBase: 0x8000_0000,
} as const;

const plicSources = 63;
const timebaseHz = 10_000_000;
const supervisorExternal = 9;

export interface MachineDescription {
  memoryBytes: number;
  cpus: number;
  /** Number of virtio-mmio slots in use: one per disk and one for rng. */
  virtioSlots: number;
  bootargs: string;
  /** What the guest's random numbers begin with: 32-bit cells, others at each boot. */
  rngSeed: readonly number[];
  /** Guest-physical range of the initramfs. */
  initrd?: { start: number; end: number };
}

/** High and low 32-bit cells of an address or size. */
function cells64(value: number): [number, number] {
  return [Math.floor(value / 2 ** 32), value >>> 0];
}

/** The tree of one machine. Phandles: hart i has 1 + i, the PLIC comes after the harts. */
export function describeMachine(machine: MachineDescription): DeviceTreeNode {
  const plic = machine.cpus + 1;
  const cpus: Record<string, DeviceTreeNode> = {};
  for (let hart = 0; hart < machine.cpus; hart++) {
    cpus[`cpu@${hart}`] = {
      properties: {
        device_type: 'cpu',
        reg: [hart],
        status: 'okay',
        compatible: 'riscv',
        'riscv,isa': 'rv64imafdc_zicntr_zicsr_zifencei',
        'riscv,isa-base': 'rv64i',
        'riscv,isa-extensions': ['i', 'm', 'a', 'f', 'd', 'c', 'zicntr', 'zicsr', 'zifencei'],
        'mmu-type': 'riscv,sv39',
      },
      children: {
        'interrupt-controller': {
          properties: {
            '#interrupt-cells': [1],
            'interrupt-controller': true,
            compatible: 'riscv,cpu-intc',
            phandle: [1 + hart],
          },
        },
      },
    };
  }

  const soc: Record<string, DeviceTreeNode> = {};
  soc[`plic@${memoryMap.plic.base.toString(16)}`] = {
    properties: {
      compatible: ['sifive,plic-1.0.0', 'riscv,plic0'],
      reg: [...cells64(memoryMap.plic.base), ...cells64(memoryMap.plic.length)],
      'interrupt-controller': true,
      '#interrupt-cells': [1],
      '#address-cells': [0],
      'riscv,ndev': [plicSources],
      'interrupts-extended': Array.from({ length: machine.cpus }, (_, hart) => [
        1 + hart,
        supervisorExternal,
      ]).flat(),
      phandle: [plic],
    },
  };
  soc[`serial@${memoryMap.uart.base.toString(16)}`] = {
    properties: {
      compatible: 'ns16550a',
      reg: [...cells64(memoryMap.uart.base), ...cells64(memoryMap.uart.length)],
      'clock-frequency': [3_686_400],
      interrupts: [memoryMap.uart.source],
      'interrupt-parent': [plic],
    },
  };
  soc[`rng@${memoryMap.generation.base.toString(16)}`] = {
    properties: {
      compatible: 'microsoft,vmgenid',
      reg: [...cells64(memoryMap.generation.base), ...cells64(memoryMap.generation.length)],
      interrupts: [memoryMap.generation.source],
      'interrupt-parent': [plic],
    },
  };
  soc[`rtc@${memoryMap.rtc.base.toString(16)}`] = {
    properties: {
      compatible: 'google,goldfish-rtc',
      reg: [...cells64(memoryMap.rtc.base), ...cells64(memoryMap.rtc.length)],
      interrupts: [memoryMap.rtc.source],
      'interrupt-parent': [plic],
    },
  };
  for (let slot = 0; slot < machine.virtioSlots; slot++) {
    const base = memoryMap.virtio.base + slot * memoryMap.virtio.stride;
    soc[`virtio_mmio@${base.toString(16)}`] = {
      properties: {
        compatible: 'virtio,mmio',
        reg: [...cells64(base), ...cells64(memoryMap.virtio.stride)],
        interrupts: [memoryMap.virtio.source + slot],
        'interrupt-parent': [plic],
      },
    };
  }

  const chosen: Record<string, Value> = {
    bootargs: machine.bootargs,
    'rng-seed': machine.rngSeed,
    'stdout-path': `/soc/serial@${memoryMap.uart.base.toString(16)}`,
  };
  if (machine.initrd) {
    chosen['linux,initrd-start'] = cells64(machine.initrd.start);
    chosen['linux,initrd-end'] = cells64(machine.initrd.end);
  }
  return {
    properties: {
      '#address-cells': [2],
      '#size-cells': [2],
      compatible: 'ckptfs,virt',
      model: 'ckptfs virtual machine',
    },
    children: {
      chosen: { properties: chosen },
      cpus: {
        properties: {
          '#address-cells': [1],
          '#size-cells': [0],
          'timebase-frequency': [timebaseHz],
        },
        children: cpus,
      },
      [`memory@${memoryMap.ramBase.toString(16)}`]: {
        properties: {
          device_type: 'memory',
          reg: [...cells64(memoryMap.ramBase), ...cells64(machine.memoryBytes)],
        },
      },
      soc: {
        properties: {
          '#address-cells': [2],
          '#size-cells': [2],
          compatible: 'simple-bus',
          ranges: true,
        },
        children: soc,
      },
    },
  };
}

const token = { beginNode: 1, endNode: 2, property: 3, end: 9 } as const;
const headerBytes = 40;

/** Serialises a tree as a device tree blob. */
export function flatten(root: DeviceTreeNode): Buffer {
  const structure: Buffer[] = [];
  const strings: Buffer[] = [];
  const stringOffsets = new Map<string, number>();
  let stringBytes = 0;

  const cell = (value: number): void => {
    const bytes = Buffer.alloc(4);
    bytes.writeUInt32BE(value >>> 0);
    structure.push(bytes);
  };
  const padded = (bytes: Buffer): void => {
    structure.push(bytes, Buffer.alloc(-bytes.length & 3));
  };
  const stringOffset = (name: string): number => {
    const known = stringOffsets.get(name);
    if (known !== undefined) return known;
    const bytes = Buffer.from(`${name}\0`);
    const offset = stringBytes;
    strings.push(bytes);
    stringOffsets.set(name, offset);
    stringBytes += bytes.length;
    return offset;
  };
  const encode = (value: Value): Buffer => {
    if (value === true) return Buffer.alloc(0);
    if (typeof value === 'string') return Buffer.from(`${value}\0`);
    return Buffer.concat(
      value.map((item) => {
        if (typeof item === 'string') return Buffer.from(`${item}\0`);
        const bytes = Buffer.alloc(4);
        bytes.writeUInt32BE(item >>> 0);
        return bytes;
      }),
    );
  };
  const visit = (name: string, node: DeviceTreeNode): void => {
    cell(token.beginNode);
    padded(Buffer.from(`${name}\0`));
    for (const [key, value] of Object.entries(node.properties)) {
      const bytes = encode(value);
      cell(token.property);
      cell(bytes.length);
      cell(stringOffset(key));
      padded(bytes);
    }
    for (const [child, childNode] of Object.entries(node.children ?? {})) visit(child, childNode);
    cell(token.endNode);
  };
  visit('', root);
  cell(token.end);

  const body = Buffer.concat(structure);
  const names = Buffer.concat(strings);
  const reservations = Buffer.alloc(16); // one empty entry ends the list
  const offStructure = headerBytes + reservations.length;
  const offStrings = offStructure + body.length;
  const header = Buffer.alloc(headerBytes);
  [
    0xd00dfeed,
    offStrings + names.length,
    offStructure,
    offStrings,
    headerBytes,
    17, // version
    16, // last compatible version
    0, // boot hart
    names.length,
    body.length,
  ].forEach((value, i) => header.writeUInt32BE(value, i * 4));
  return Buffer.concat([header, reservations, body, names]);
}
