/**
 * A mounted store in the hands of the tools that everybody has: what they copy, list and read is what the
 * checkpoints hold, also when many read at once, when a checkpoint is removed under a reader, and when the mount
 * ends under load.
 */
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, open, readFile, readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { mountOn } from '../src/fs/mounts.js';
import { eventually, noFuse } from './fs-harness.js';
import {
  missing,
  mounted,
  Shell,
  tool,
  transportOptions,
  transportsUnderTest,
} from './support/tools.js';
import { checkpointNames, diskIds, makeWeb, type Web, webMemoryBytes } from './support/web.js';

t.setTimeout(600_000);

const checkpoints = 'vms/web/checkpoints';
const flatFiles = ['memory', ...diskIds.map((disk) => `disks/${disk}`)];

/** Compares flat files below `directory` with what the checkpoint has to hold. */
async function holdsCheckpoint(web: Web, checkpoint: string, directory: string): Promise<void> {
  for (const file of flatFiles) {
    await tool('cmp', join(directory, file), web.expected(checkpoint, file));
  }
}

/** How many bytes a file takes on its filesystem. */
async function takenBytes(path: string): Promise<number> {
  return (await stat(path)).blocks * 512;
}

function suite(t: Test, web: Web, transport: string | undefined): void {
  const withMount = (t: Test, use: (directory: string) => Promise<void>) =>
    mounted(t, web.cli, transport, use);
  const scratch = async (name: string) => {
    const directory = web.path(`${transport ?? 'default'}-${name}`);
    await mkdir(directory);
    return directory;
  };

  t.test('cmp and cp --sparse=always', async (t) => {
    const copies = await scratch('cp');
    await withMount(t, async (mount) => {
      for (const name of checkpointNames) {
        await holdsCheckpoint(web, name, join(mount, checkpoints, name));
      }
      await t.rejects(
        tool('cmp', join(mount, checkpoints, 'before/memory'), web.expected('after', 'memory')),
        { code: 1, stdout: /differ/ },
        'cmp can fail',
      );
      for (const file of ['memory', 'disks']) {
        await tool('cp', '-R', '--sparse=always', join(mount, checkpoints, 'after', file), copies);
      }
      await holdsCheckpoint(web, 'after', copies);
      t.ok((await takenBytes(join(copies, 'memory'))) < webMemoryBytes, 'with holes');
    });
  });

  t.test('tar -S, there and back', { skip: missing('tar') }, async (t) => {
    const directory = await scratch('tar');
    const archive = join(directory, 'a.tar');
    await withMount(t, async (mount) => {
      const from = join(mount, 'vms/web');
      await tool('tar', '-C', from, '-S', '-cf', archive, 'checkpoints', 'config.json', 'layers');
      await tool('tar', '-C', from, '-df', archive);
      const files = checkpointNames.flatMap((name) =>
        [...flatFiles, 'memory.elf'].map((file) => join(mount, checkpoints, name, file)),
      );
      const taken = await Promise.all(files.map(takenBytes));
      const sumBytes = taken.reduce((sum, bytes) => sum + bytes);
      t.ok(
        (await stat(archive)).size < sumBytes + (64 << 20),
        'holes that stat tells of are not in it',
      );
      await tool('tar', '-C', directory, '-xf', archive);
      for (const name of checkpointNames) {
        await holdsCheckpoint(web, name, join(directory, 'checkpoints', name));
      }
      await tool(
        'diff',
        '-r',
        '--no-dereference',
        from,
        directory,
        '-x',
        'status.json',
        ...['-x', 'console.log', '-x', 'a.tar'],
      );
    });
  });

  t.test('rsync -aHS, twice', { skip: missing('rsync') }, async (t) => {
    const copy = await scratch('rsync');
    await withMount(t, async (mount) => {
      const rsync = (...options: string[]) =>
        tool('rsync', '-aHS', ...options, join(mount, 'vms'), join(mount, 'by-time'), copy);
      await rsync();
      for (const name of checkpointNames) {
        await holdsCheckpoint(web, name, join(copy, checkpoints, name));
      }
      const changed = await rsync('--dry-run', '--checksum', '--itemize-changes');
      t.equal(changed.replace(/^.*status\.json\n/m, ''), '', 'nothing is left to do');
      const segments = async (directory: string, name: string) => {
        const image = join(directory, checkpoints, name, 'image');
        const files = (await readdir(image)).filter((file) => /\.(hot|cold)$/.test(file)).sort();
        return Promise.all(
          files.map(async (file) => `${file} ${(await stat(join(image, file))).nlink}`),
        );
      };
      t.same(await segments(copy, 'after'), await segments(mount, 'after'), 'hard links stay');
      t.match((await segments(copy, 'after')).join('\n'), / 2$/m, 'and there are some');
      t.ok((await takenBytes(join(copy, checkpoints, 'after/memory'))) < webMemoryBytes);
    });
  });

  t.test('find, du, stat and df', async (t) => {
    await withMount(t, async (mount) => {
      const found = await tool(
        'find',
        join(mount, checkpoints),
        '-mindepth',
        '2',
        '-maxdepth',
        '3',
        '-path',
        '*/before/*',
        '-not',
        '-path',
        '*/image/*',
        '-type',
        'f',
        '-printf',
        '%P %s %m\n',
      );
      t.same(
        found
          .trim()
          .split('\n')
          .sort()
          .filter((line) => !line.includes('memory.elf')),
        [
          `before/device-state.json ${(await stat(join(mount, checkpoints, 'before/device-state.json'))).size} 444`,
          `before/disks/vda ${(await stat(web.expected('before', 'disks/vda'))).size} 444`,
          `before/disks/vdb ${(await stat(web.expected('before', 'disks/vdb'))).size} 444`,
          `before/manifest.json ${(await stat(join(web.cli.store.checkpointDirectory('web', 'before'), 'manifest.json'))).size} 444`,
          `before/memory ${webMemoryBytes} 444`,
        ],
      );
      t.equal(await tool('find', mount, '-newermt', '+1 hour', '-not', '-name', 'status.json'), '');
      const links = await tool('find', join(mount, 'by-time'), '-type', 'l', '-printf', '%l\n');
      t.same(links.trim().split('\n').sort(), [
        '../vms/web/checkpoints/after',
        '../vms/web/checkpoints/before',
      ]);
      t.equal(await tool('find', '-L', mount, '-type', 'l'), '', 'no link is broken');

      // Segments that both checkpoints have are counted once.
      const du = async (directory: string, ...below: string[]) => {
        const paths = checkpointNames.map((name) => join(directory, name, ...below));
        const total = (await tool('du', '-c', '-k', ...paths)).trim().split('\n').at(-1);
        return Number.parseInt(total ?? '', 10);
      };
      const store = web.cli.store.checkpointsDirectory('web');
      const directoriesKib = 64; // which take no space in the mount
      const [shown, stored] = [await du(join(mount, checkpoints), 'image'), await du(store)];
      t.ok(shown <= stored && shown > stored - directoriesKib, `${shown} of ${stored} KiB`);

      const told = await tool(
        'stat',
        '-c',
        '%F %s %h %U',
        join(mount, checkpoints, 'after/disks/vdb'),
      );
      t.equal(
        told,
        `regular file ${(await stat(web.expected('after', 'disks/vdb'))).size} 1 ${(await tool('id', '-un')).trim()}\n`,
      );
      t.match(await tool('stat', '-f', '-c', '%T %l', mount), /^fuseblk 255|^fuse 255/);
      const size = async (path: string) => (await tool('df', '--output=size', path)).split('\n')[1];
      t.equal(await size(mount), await size(web.cli.store.root));
    });
  });

  t.test('dd iflag=direct, and readers that map', { skip: missing('python3') }, async (t) => {
    const directory = await scratch('dd');
    const hash = `
import hashlib, mmap, sys
with open(sys.argv[1], 'rb') as file:
    with mmap.mmap(file.fileno(), 0, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ) as memory:
        print(hashlib.sha256(memory).hexdigest())
`;
    await withMount(t, async (mount) => {
      for (const file of flatFiles) {
        const shown = join(mount, checkpoints, 'before', file);
        const expected = web.expected('before', file);
        await tool('dd', `if=${shown}`, `of=${join(directory, 'direct')}`, 'bs=1M', 'iflag=direct');
        await tool('cmp', join(directory, 'direct'), expected);
        const [sum] = (await tool('sha256sum', expected)).split(' ');
        t.equal(await tool('python3', '-c', hash, shown), `${sum}\n`, file);
      }
      // Unaligned in the file, over its end, and of no whole block.
      const disk = join(mount, checkpoints, 'before/disks/vdb');
      const expected = await readFile(web.expected('before', 'disks/vdb'));
      const part = ['bs=1', `skip=${expected.length - 700}`, 'count=9000'];
      await tool('dd', `if=${disk}`, `of=${join(directory, 'end')}`, ...part);
      t.ok((await readFile(join(directory, 'end'))).equals(expected.subarray(-700)));
    });
  });

  t.test('64 readers at once', async (t) => {
    const directory = await scratch('many');
    await withMount(t, async (mount) => {
      const pieceBytes = 1 << 20;
      const sources = checkpointNames.flatMap((name) =>
        flatFiles.map((file) => [name, file] as const),
      );
      const reader = async (i: number) => {
        const [name, file] = sources[i % sources.length]!;
        const expected = await open(web.expected(name, file));
        const { size } = await expected.stat();
        const skip = (i * 7_654_321) % (size - pieceBytes);
        const piece = join(directory, String(i));
        const where = ['iflag=skip_bytes,fullblock', `skip=${skip}`, `bs=${pieceBytes}`, 'count=1'];
        await tool('dd', `if=${join(mount, checkpoints, name, file)}`, `of=${piece}`, ...where);
        const { buffer } = await expected.read(Buffer.alloc(pieceBytes), 0, pieceBytes, skip);
        await expected.close();
        return (await readFile(piece)).equals(buffer) ? undefined : `${name}/${file} at ${skip}`;
      };
      const wrong = await Promise.all(Array.from({ length: 64 }, (_, i) => reader(i)));
      t.same(
        wrong.filter((what) => what !== undefined),
        [],
      );
    });
  });

  t.test('the mount ends under load', async (t) => {
    const directory = await scratch('load');
    const shell = await Shell.open(directory, web.cli.store.root, undefined);
    const mount = join(directory, 'mnt');
    await mkdir(mount);
    const server = spawn('ckptfs', ['mount', '-f', ...transportOptions(transport), mount], {
      env: shell.environment,
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const exited = once(server, 'exit');
    await once(server.stdout, 'data');
    const memory = join(mount, checkpoints, 'before/memory');
    const readers = Array.from({ length: 8 }, (_, i) => {
      const copy = join(directory, `copy-${i}`);
      // Between two copies it holds the mount, too.
      const script = `exec 3<${memory}; while dd if=${memory} of=${copy} bs=64k; do :; done`;
      const child = execFile('sh', ['-c', script]);
      return { copy, ended: once(child, 'exit') };
    });
    await eventually(t, 'they read', async () => {
      const sizes = await Promise.all(readers.map(({ copy }) => stat(copy).catch(() => undefined)));
      return sizes.every((stats) => (stats?.size ?? 0) > 0);
    });
    t.match(await web.cli.ckptfs('umount', mount), { status: 11, stderr: /is in use/ });
    server.kill('SIGTERM');
    t.same(await exited, [0, null], 'its server ends well');
    t.equal(await mountOn(mount), undefined, 'and leaves no mount');
    await Promise.all(readers.map(({ ended }) => ended));
    const expected = await readFile(web.expected('before', 'memory'));
    for (const { copy } of readers) {
      const read = await readFile(copy).catch(() => Buffer.alloc(0));
      t.ok(read.equals(expected.subarray(0, read.length)), 'what was read is right');
    }
    t.same(await readdir(mount), []);
  });
}

t.test('tools', { skip: missing('mke2fs') }, async (t) => {
  const web = await makeWeb(t);
  for (const transport of transportsUnderTest()) {
    await t.test(`over ${transport ?? 'the default transport'}`, async (t) =>
      suite(t, web, transport),
    );
  }

  // Last, as there is one checkpoint less then.
  t.test(
    'a reader keeps its file when the checkpoint is removed',
    { skip: noFuse() },
    async (t) => {
      await mounted(t, web.cli, transportsUnderTest()[0], async (mount) => {
        const shell = await Shell.open(web.path('home'), web.cli.store.root, undefined);
        const [memory, copy] = [join(mount, checkpoints, 'before/memory'), web.path('copy')];
        await shell.run(`
        exec 3<${memory}
        dd bs=1M count=5 iflag=fullblock <&3 >${copy}
        ckptfs rm web@before
        cat <&3 >>${copy}
      `);
        await tool('cmp', copy, web.expected('before', 'memory'));
        t.same(await readdir(join(mount, checkpoints)), ['after', 'latest']);
        await tool(
          'cmp',
          join(mount, checkpoints, 'after/memory'),
          web.expected('after', 'memory'),
        );
      });
    },
  );
});
