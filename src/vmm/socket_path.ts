/**
 * Unix socket addresses of any length: the kernel takes 107 bytes, and a store may lie deep.
 */
import { open } from 'node:fs/promises';
import { basename, dirname } from 'node:path';

const maxAddressBytes = 107;

/** Runs `use` with an address of the socket at `path`, good for binding or connecting until it resolves. */
export async function withSocketPath<T>(
  path: string,
  use: (address: string) => Promise<T>,
): Promise<T> {
  if (Buffer.byteLength(path) <= maxAddressBytes) return use(path);
  const directory = await open(dirname(path), 'r');
  try {
    return await use(`/proc/self/fd/${directory.fd}/${basename(path)}`);
  } finally {
    await directory.close();
  }
}
