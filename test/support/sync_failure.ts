/** A disk that fails once: what is written is in the page cache, and the system tells of its loss once. */
import { type FileHandle, open, readlink } from 'node:fs/promises';

/**
 * Lets the next fsync or fdatasync of Node's in this process fail with EIO, as if `syscall` had, on a file whose path
 * matches; undone at the end.
 */
export async function failOneSync(
  t: { teardown: (end: () => void) => unknown },
  kind: 'sync' | 'datasync',
  { syscall = kind === 'sync' ? 'fsync' : 'fdatasync', path = /./ } = {},
): Promise<{ readonly failed: number }> {
  const some = await open('/dev/null');
  const shared = Object.getPrototypeOf(some) as FileHandle;
  await some.close();
  const { [kind]: real } = shared;
  const told = { failed: 0 };
  shared[kind] = async function (this: FileHandle) {
    const name = await readlink(`/proc/self/fd/${this.fd}`);
    await real.call(this);
    if (told.failed > 0 || !path.test(name)) return;
    told.failed++;
    throw Object.assign(new Error(`EIO: i/o error, ${syscall}`), { code: 'EIO', syscall });
  };
  t.teardown(() => (shared[kind] = real));
  return told;
}
