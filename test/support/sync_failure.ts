/** A disk that fails once: what is written is in the page cache, and the system tells of its loss once. */
import { type FileHandle, open } from 'node:fs/promises';

/** Lets one call of fsync or fdatasync in this process fail with EIO, on a file whose path matches; undone at the end. */
export async function failOneSync(
  t: { teardown: (end: () => void) => unknown },
  kind: 'sync' | 'datasync',
  hits = 1,
): Promise<{ readonly failed: number }> {
  const some = await open('/dev/null');
  const shared = Object.getPrototypeOf(some) as FileHandle;
  await some.close();
  const { [kind]: real } = shared;
  let calls = 0;
  const told = { failed: 0 };
  shared[kind] = async function (this: FileHandle) {
    await real.call(this);
    if (++calls !== hits) return;
    told.failed++;
    throw Object.assign(new Error('EIO: i/o error, fsync'), { code: 'EIO', errno: -5 });
  };
  t.teardown(() => (shared[kind] = real));
  return told;
}
