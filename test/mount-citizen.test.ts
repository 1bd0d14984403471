/**
 * A mount among others: mounted by mount(8) from fstab, by an ordinary user, by systemd; over one whose server has
 * died; with the owner and the permissions that were asked for. And umount, which waits for the server.
 */
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { access, chmod, lstat, mkdir, readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t, { type Test } from 'tap';
import { errnoOf } from '../src/errors.js';
import { parseMountOptions } from '../src/fs/mount.js';
import { mountOn, unmountPath } from '../src/fs/mounts.js';
import { ServerEnd, ServerWatch } from '../src/fs/server_end.js';
import type { Store } from '../src/checkpoint/store.js';
import { command, eventually, failure, noFuse, temporary } from './fs-harness.js';
import { publish, storeWithVm } from './support/checkpoints.js';
import { main, start } from './support/cli.js';
import { missing, tool, transportOptions, transportsUnderTest } from './support/tools.js';

t.setTimeout(300_000);

const [transport] = transportsUnderTest();
const helper = fileURLToPath(new URL('../src/cli/mount_helper.js', import.meta.url));
const units = fileURLToPath(new URL('../../systemd/', import.meta.url));
const notRoot = process.getuid?.() === 0 ? false : 'not root';
const nobody = 65534;
const manifest = 'vms/vm1/checkpoints/one/manifest.json';

interface Place {
  store: Store;
  /** A directory of the test, and an empty one in it. */
  base: string;
  directory: string;
  ckptfs: (...args: string[]) => ReturnType<typeof start>['finished'];
  mount: (...options: string[]) => ReturnType<typeof start>['finished'];
}

/** A store with vm1@one, and a directory to mount it on. */
async function place(t: Test): Promise<Place> {
  const base = await temporary(t);
  await chmod(base, 0o755);
  const store = await storeWithVm(t, base);
  await publish(store, 'vm1', 'one');
  const directory = join(base, 'mnt');
  await mkdir(directory);
  t.teardown(async () => {
    while ((await mountOn(directory)) !== undefined) await unmountPath(directory, true);
  });
  const ckptfs = (...args: string[]) => start(store, args).finished;
  const mount = (...options: string[]) =>
    ckptfs('mount', '--json', ...transportOptions(transport), ...options, directory);
  return { store, base, directory, ckptfs, mount };
}

/** Why nothing can be done in mounts of a namespace's own; false when it can. */
async function noNamespace(): Promise<string | false> {
  if (notRoot !== false) return notRoot;
  return command('unshare', '-m', 'true').then(
    () => false,
    () => 'no mount namespaces',
  );
}

/** Runs a script in a mount namespace that goes with it. */
function apart(script: string): Promise<string> {
  return tool('unshare', '-m', '--propagation', 'private', 'bash', '-euc', script);
}

t.test('options of fstab', async (t) => {
  const fstab = 'defaults,noauto,user,_netdev,nofail,x-systemd.automount,x-gvfs-show,noatime';
  t.same(parseMountOptions(`${fstab},comment=x,ro`), { allowOther: false, writable: false });
  t.same(parseMountOptions('rw,nosuid,allow_other,uid=5,umask=027'), {
    allowOther: true,
    writable: true,
    ownership: { uid: 5, umask: 0o27 },
  });
  for (const [text, message] of [
    ['ro,compress=zstd', /unknown mount option compress=zstd; there are: allow_other, .*umask=/],
    ['remount,ro', /unknown mount option remount/],
    ['uid=root', /uid=root is not valid; give a number/],
    ['gid=', /gid= is not valid/],
    ['uid=4294967295', /not valid/],
    ['umask=8', /umask=8 is not valid; give an octal number/],
    ['umask=1000', /octal number up to 777/],
    ['ro,rw', /either ro or rw/],
  ] as const) {
    t.throws(() => parseMountOptions(text), { code: 'USAGE', message }, text);
  }
  t.same(parseMountOptions('ro,compress=zstd', true), { allowOther: false, writable: false });
});

t.test('mount(8) and fstab', { skip: noFuse() || (await noNamespace()) }, async (t) => {
  const { store, base, directory } = await place(t);
  const [sbin, spaced] = [join(base, 'sbin'), join(base, 'with space,and comma')];
  await mkdir(sbin);
  await mkdir(spaced);
  await writeFile(
    join(sbin, 'mount.fuse.ckptfs'),
    `#!/bin/sh\nexec '${process.execPath}' '${helper}' "$@"\n`,
    { mode: 0o755 },
  );
  const escaped = (path: string) => path.replaceAll(' ', '\\040');
  await writeFile(
    join(base, 'fstab'),
    [
      `${store.root} ${directory} fuse.ckptfs ro,allow_other,umask=022,_netdev,nofail,x-systemd.automount 0 0`,
      `${store.root} ${escaped(spaced)} fuse.ckptfs noauto,user,ro,uid=12 0 0`,
      '',
    ].join('\n'),
  );
  const text = await apart(`
    mount --bind '${base}/fstab' /etc/fstab
    mount -t overlay overlay -o 'lowerdir=${sbin}:/usr/sbin' /usr/sbin
    mount '${directory}'
    findmnt -n -o SOURCE,FSTYPE '${directory}'
    findmnt -n -o OPTIONS '${directory}'
    cat '${directory}/${manifest}'
    mount -a -v | grep '${directory}'
    umount '${directory}'
    ls '${directory}'
    mount -v '${spaced}'
    stat -c 'uid %u mode %a' '${spaced}/${manifest}'
    umount '${spaced}'
    mount -t fuse.ckptfs -o ro '${store.root}' '${directory}'
    mount -t fuse.ckptfs -o ro '${store.root}' '${directory}' 2>&1 || echo "ended with $?"
    umount '${directory}'
    mount -t fuse.ckptfs -o compress=1 '${store.root}' '${directory}' 2>&1 || echo "ended with $?"
  `);
  t.match(text, new RegExp(`^${store.root} +fuse\\.ckptfs\nro,nosuid,nodev,noexec,.*allow_other`));
  t.match(
    text,
    await readFile(join(store.checkpointDirectory('vm1', 'one'), 'manifest.json'), 'utf8'),
  );
  t.match(text, /: already mounted\nmounted .* on .*with space,and comma \(pid \d+\)\n/);
  t.match(text, /\nuid 12 mode 444\n/);
  t.match(text, /already; unmount it first \(ckptfs umount\)\nended with 32\n/);
  t.match(text, /unknown mount option compress=1; there are: .*\nended with 1\n$/);
});

t.test('the mount helper alone', async (t) => {
  const run = async (...args: string[]) => {
    try {
      return { code: 0, stderr: await command(process.execPath, helper, ...args) };
    } catch (error) {
      return error as { code: number; stderr: string };
    }
  };
  t.match(await run('/store'), { code: 1, stderr: /give a store and a directory/ });
  t.match(await run('/store', '/dir', '-x'), { code: 1, stderr: /mount\.fuse\.ckptfs: .*-x/ });
  t.match(await run('-f', '/store', '/dir', '-o', 'ro'), { code: 0 });
  const absent = { code: 32, stderr: /ckptfs: no store at \/nonexistent/ };
  t.match(await run('/nonexistent', '/tmp', '-n', '-s', '-o', 'ro,bogus'), absent);
});

t.test('owner and permissions', { skip: noFuse() || notRoot || missing('setpriv') }, async (t) => {
  const { directory, ckptfs, mount } = await place(t);
  const ids = [`--reuid=${nobody}`, `--regid=${nobody}`, '--clear-groups'];
  const asNobody = (...words: string[]) => command('setpriv', ...ids, ...words);
  const file = join(directory, manifest);
  const shown = async (path: string) => {
    const { uid, gid, mode } = await lstat(path);
    return `${uid} ${gid} ${(mode & 0o777).toString(8)}`;
  };

  t.match(await mount('-o', 'allow_other'), { status: 0 });
  t.match(await asNobody('cat', file), /"vm": "vm1"/, 'with allow_other alone all may read');
  t.equal((await ckptfs('umount', directory)).status, 0);

  t.match(await mount('-o', 'rw,allow_other,uid=7,gid=8,umask=027'), { status: 0 });
  t.equal(await shown(file), '7 8 440');
  t.equal(await shown(join(directory, 'vms')), '7 8 550');
  t.equal(await shown(join(directory, 'vms/vm1/checkpoints/latest')), '7 8 777');
  t.match(await failure('setpriv', ...ids, 'cat', file), /Permission denied/);
  t.match(
    await command('setpriv', '--reuid=99', '--regid=8', '--clear-groups', 'cat', file),
    /"vm1"/,
  );
  t.equal((await ckptfs('umount', directory)).status, 0);

  t.match(await mount('-o', `allow_other,umask=077,uid=${nobody}`), { status: 0 });
  t.match(await asNobody('cat', file), /"vm1"/);
  const other = await failure('setpriv', '--reuid=99', '--regid=99', '--clear-groups', 'cat', file);
  t.match(other, /Permission denied/);
});

t.test(
  'an ordinary user',
  { skip: noFuse() || (await noNamespace()) || missing('setpriv', 'fusermount') },
  async (t) => {
    const { store, base, directory } = await place(t);
    await command('chown', '-R', `${nobody}:${nobody}`, base);
    const user = `setpriv --reuid=${nobody} --regid=${nobody} --clear-groups env HOME='${base}'`;
    const ckptfs = `${user} '${process.execPath}' '${main}'`;
    const unreadable = await failure(
      'bash',
      '-c',
      `${ckptfs} version >/dev/null && echo no >&2 && false`,
    );
    if (unreadable !== 'no\n') return t.comment('skipped: others may not read this directory');
    const text = await apart(`
    if ! ${user} test -w /dev/fuse; then # a device of our own, for all
      mknod -m 666 '${base}/fuse' c 10 229
      mount --bind '${base}/fuse' /dev/fuse
    fi
    ${ckptfs} mount -q ${transportOptions(transport).join(' ')} '${store.root}' '${directory}'
    ${user} stat -c '%U %a' '${directory}/${manifest}'
    ${user} cmp '${directory}/${manifest}' '${store.checkpointDirectory('vm1', 'one')}/manifest.json'
    cat '${directory}/${manifest}' 2>&1 || true
    ${ckptfs} umount '${directory}'
    ${ckptfs} mount -o allow_other '${store.root}' '${directory}' 2>&1 || echo "ended with $?"
    grep -c '${directory}' /proc/self/mountinfo || true
  `);
    t.match(text, `${directory}\nnobody 444\n`);
    t.match(text, /manifest\.json: Permission denied\n/, 'even root may not, without allow_other');
    t.match(text, `unmounted ${directory}\n`);
    t.match(text, /user_allow_other[^\n]*\nended with 1\n0\n$/);
  },
);

t.test('a mount over one whose server was killed', { skip: noFuse() }, async (t) => {
  const { directory, ckptfs, mount } = await place(t);
  for (const how of ['mounted anew', 'and once more']) {
    const mounted = await mount();
    t.match(mounted, { status: 0, stderr: '' }, how);
    process.kill(mounted.objects[0]?.pid as number, 'SIGKILL');
    await eventually(t, 'it is dead', async () =>
      stat(directory).then(
        () => false,
        (error: unknown) => errnoOf(error) === 'ENOTCONN',
      ),
    );
  }
  t.match(await ckptfs('umount', directory), { status: 0 }, 'or taken away');
  t.same(await readdir(directory), []);
  t.match(await mount(), { status: 0 });
  t.match(await mount(), { status: 11, stdout: /a ckptfs mount already/ }, 'one that lives stays');
  t.match(await command('cat', join(directory, manifest)), /"vm1"/);
});

t.test('umount waits for the server', { skip: noFuse() }, async (t) => {
  const device = `test-${process.pid}`;
  t.equal(await ServerWatch.open(device), undefined, 'nobody is there');
  const end = await ServerEnd.announce(device);
  const [one, other] = [await ServerWatch.open(device), await ServerWatch.open(device)];
  t.equal(await one?.ended(50), false);
  one?.[Symbol.dispose]();
  const ended = other?.ended(10_000);
  end.close();
  t.equal(await ended, true);
  t.equal(await ServerWatch.open(device), undefined);

  const { directory, ckptfs, mount } = await place(t);
  const mounted = await mount('-o', 'rw');
  const entry = await mountOn(directory);
  using watch = await ServerWatch.open(entry?.device ?? '');
  t.ok(watch, 'a mount is announced');
  t.equal(await watch?.ended(50), false);
  t.match(await ckptfs('umount', directory), { status: 0 });
  t.equal(await watch?.ended(0), true, 'its server is done when umount returns');
  await eventually(t, 'and ends', async () =>
    access(`/proc/${mounted.objects[0]?.pid as number}`).then(
      () => false,
      () => true,
    ),
  );
});

/** Prints what reaches the socket that it makes. */
const listener = `
import socket, sys
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as inbox:
    inbox.bind(sys.argv[1])
    print('bound', flush=True)
    while True:
        print(inbox.recv(4096).decode(), flush=True)
`;

t.test(
  'systemd is told when a mount is ready',
  { skip: missing('systemd-notify', 'python3') },
  async (t) => {
    const { store, base, directory } = await place(t);
    const inbox = execFile('python3', ['-c', listener, join(base, 'notify')]);
    t.teardown(() => inbox.kill());
    let told = '';
    inbox.stdout?.on('data', (text: string) => (told += text));
    await eventually(t, 'somebody listens', async () => told.includes('bound'));
    const server = spawn(process.execPath, [main, 'mount', '-f', store.root, directory], {
      env: { ...process.env, NOTIFY_SOCKET: join(base, 'notify') },
      stdio: ['ignore', 'ignore', 'inherit'],
    });
    const exited = once(server, 'exit');
    await eventually(t, 'it is told', async () => told.includes('READY=1'));
    t.match(told, `STATUS=${store.root} on ${directory}`);
    t.same(await readdir(join(directory, 'vms')), ['vm1'], 'it answers');
    server.kill('SIGTERM');
    t.same(await exited, [0, null]);
    t.equal(await mountOn(directory), undefined);
  },
);

t.test('the units of systemd', { skip: missing('systemd-analyze') }, async (t) => {
  const directory = await temporary(t);
  const verify = (unit: string) =>
    tool('sh', '-c', 'systemd-analyze verify --man=no "$0" 2>&1', unit);
  const names = (await readdir(units)).sort();
  t.same(names, ['ckptfs-mount@.service', 'ckptfs-protect@.service', 'ckptfs-vm@.service']);
  for (const name of names) {
    const unit = join(directory, name.replace('@', '@mnt'));
    await writeFile(unit, await readFile(join(units, name), 'utf8'));
    t.equal(await verify(unit), '', name);
    await writeFile(unit, (await readFile(unit, 'utf8')).replace('Type=notify', 'Typ=notify'));
    t.match(await verify(unit), /Unknown key (name )?'Typ'/, 'it can find something');
  }
});
