/** What comes by standard input comes as it is, however slowly it is taken, and of whatever kind that is. */
import { spawn } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { open, writeFile } from 'node:fs/promises';
import { type AddressInfo, connect, createServer } from 'node:net';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import t from 'tap';
import { temporary } from './fs-harness.js';

const mib = 2 ** 20;
const input = new URL('../src/transfer/input.js', import.meta.url).href;
/** Holds 8 MiB back, as frames that are written do, and prints the checksum of all. */
const taker = `
  const { createHash } = await import('node:crypto');
  const { standardInput } = await import('${input}');
  const hash = createHash('sha256');
  const held = [];
  let [heldBytes, count] = [0, 0];
  for await (const chunk of standardInput()) {
    if (chunk.length > 1 << 20) throw new Error('more than is held back was read at once');
    held.push(chunk);
    heldBytes += chunk.length;
    for (; heldBytes > 8 << 20; heldBytes -= held.shift().length) hash.update(held[0]);
    if (++count % 64 === 0) await new Promise((resolve) => setTimeout(resolve, 5));
  }
  for (const chunk of held) hash.update(chunk);
  console.log(hash.digest('hex'));
`;
const bytes = randomBytes(40 * mib);
const expected = createHash('sha256').update(bytes).digest('hex');
const args = ['--input-type=module', '-e', taker];

async function printed(child: ReturnType<typeof spawn>): Promise<string> {
  let text = '';
  child.stdout?.on('data', (piece: Buffer) => (text += piece.toString()));
  const [code] = (await once(child, 'close')) as [number | null];
  return `${text.trim()} ${code}`;
}

t.test('a pipe, more than once around the ring', async (t) => {
  const child = spawn(process.execPath, args, { stdio: ['pipe', 'pipe', 'inherit'] });
  const told = printed(child);
  await pipeline(Readable.from([bytes.subarray(0, 5), bytes.subarray(5)]), child.stdin);
  t.equal(await told, `${expected} 0`);
});

t.test('a socket that holds more than the ring', async (t) => {
  const server = createServer((socket) => {
    const child = spawn(process.execPath, args, { stdio: [socket, 'pipe', 'inherit'] });
    void printed(child).then((text) => server.emit('told', text));
    socket.destroy(); // it has one of its own
  });
  t.teardown(() => server.close());
  const told = once(server, 'told');
  await once(server.listen(0, '127.0.0.1'), 'listening');
  const { port } = server.address() as AddressInfo;
  await pipeline(Readable.from([bytes]), connect(port, '127.0.0.1'));
  t.same(await told, [`${expected} 0`]);
});

t.test('a file', async (t) => {
  const path = join(await temporary(t), 'bytes');
  await writeFile(path, bytes);
  const file = await open(path);
  t.teardown(() => file.close());
  const child = spawn(process.execPath, args, { stdio: [file.fd, 'pipe', 'inherit'] });
  t.equal(await printed(child), `${expected} 0`);
});

t.test('nothing', async (t) => {
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  t.equal(await printed(child), `${createHash('sha256').digest('hex')} 0`);
});
