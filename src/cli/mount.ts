/**
 * ckptfs mount: a store as files. By default the mount is served by a process of its own, which
 * this one starts and hears from over a channel: {@link Report}; with -f it is served here.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { open, statfs } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type Command, Option } from 'commander';
import type { Store } from '../checkpoint/store.js';
import { CkptError, type ErrorCode, toCkptError } from '../errors.js';
import { type Context, withContext } from './context.js';
import { notifyReady } from './notify.js';

/** How long the mount may take to answer: more than the transport allows itself. */
const startLimitMs = 30_000;
const logName = 'mount.log';
const main = fileURLToPath(new URL('main.js', import.meta.url));

interface Options {
  options: string;
  transport?: string;
  foreground?: boolean;
  sloppy?: boolean;
}

/** What the serving process tells the one that started it, once. */
type Report =
  | { type: 'mounted'; directory: string }
  | { type: 'error'; code: ErrorCode; message: string; data: Record<string, unknown> };

export function registerMount(program: Command): void {
  program
    .command('mount')
    .description('show a store as files in an empty directory')
    .usage('[options] [store] <dir>')
    .argument('<store and dir...>', 'the store (else --store), and where to mount it')
    .option(
      '-o, --options <list>',
      'comma list of: allow_other, overlay=DIR, ro, rw, uid=N, gid=N, umask=OCTAL',
      'ro',
    )
    .addOption(new Option('--sloppy', 'pass over unknown mount options').hideHelp())
    .option('--transport <name>', 'libfuse3, the default where it is there, or fuse-native')
    .option('-f, --foreground', 'serve the mount here until Ctrl-C, umount or SIGTERM')
    .addHelpText(
      'after',
      '\nWith -o rw the disks of checkpoints can be written, to replay a journal, say: the writes are seen in' +
        '\nthis mount alone and are gone with it, or with overlay=DIR kept there for the next mount. mkdir and rmdir in checkpoints/ of a VM take and remove checkpoints.' +
        '\nAll else is read-only, and no checkpoint changes.',
    )
    .action(
      withContext(async (context, options: Options, paths: string[]) => {
        const directory = paths.pop();
        const [storePath, ...others] = paths;
        if (directory === undefined || others.length > 0) {
          throw new CkptError('USAGE', 'give one store at most and one directory');
        }
        const { Store } = await import('../checkpoint/store.js');
        const store =
          storePath === undefined ? await context.openStore() : await Store.open(storePath);
        await (options.foreground === true ? serve : start)(context, store, directory, options);
        return undefined;
      }),
    );
}

/** Serves the mount in this process until it is gone or a signal ends it. */
async function serve(
  context: Context,
  store: Store,
  directory: string,
  options: Options,
): Promise<void> {
  const { mount, parseMountOptions, parseTransport } = await import('../fs/mount.js');
  const { storeView } = await import('../fs/store_view.js');
  const ended = new Promise((end) => {
    context.signal.addEventListener('abort', end);
    process.once('SIGTERM', end).once('SIGHUP', end);
  });
  try {
    await using mounted = await mount(storeView(store), directory, {
      ...parseMountOptions(options.options, options.sloppy),
      ...(options.transport === undefined ? {} : { transport: parseTransport(options.transport) }),
      onError: (line) =>
        context.output.status({ error: line }, `${new Date().toISOString()} ${line}`),
    });
    if (process.send === undefined) {
      tell(context, mounted.directory, store);
      await notifyReady(context, `${store.root} on ${mounted.directory}`);
    } else {
      await report({ type: 'mounted', directory: mounted.directory });
    }
    await Promise.race([mounted.gone, ended]);
  } catch (error) {
    const { code, message, data } = toCkptError(error);
    if (process.connected) await report({ type: 'error', code, message, data });
    throw error;
  }
}

/** Sends to the starter and lets it go; rejects when it is gone already. */
async function report(message: Report): Promise<void> {
  await new Promise<void>((sent, failed) => {
    process.send?.(message, (error: Error | null) => (error ? failed(error) : sent()));
  });
  process.disconnect();
}

/** Starts the serving process and returns when its mount answers. */
async function start(
  context: Context,
  store: Store,
  directory: string,
  options: Options,
): Promise<void> {
  const { mountOptionsText, parseMountOptions } = await import('../fs/mount.js');
  // A store that cannot be written can be mounted, only its mount has no log.
  const log = await open(join(store.root, logName), 'a', 0o600).catch(() => undefined);
  try {
    // It runs in another directory.
    const list = mountOptionsText(parseMountOptions(options.options, options.sloppy));
    const command = ['mount', '-f', '-o', list];
    if (options.transport !== undefined) command.push('--transport', options.transport);
    const child = spawn(
      process.execPath,
      [...process.execArgv, main, ...command, '--', store.root, resolve(directory)],
      { detached: true, cwd: '/', stdio: ['ignore', 'ignore', log?.fd ?? 'ignore', 'ipc'] },
    );
    const mounted = await firstReport(child);
    await statfs(mounted);
    child.unref();
    tell(context, mounted, store, child.pid);
  } finally {
    await log?.close();
  }
}

async function firstReport(child: ChildProcess): Promise<string> {
  let timer: NodeJS.Timeout | undefined;
  try {
    return await new Promise((mounted, reject) => {
      const fail = (why: string) => reject(new CkptError('IO', `cannot mount: ${why}`));
      timer = setTimeout(() => {
        child.kill('SIGTERM');
        fail(`no answer within ${startLimitMs / 1000} s`);
      }, startLimitMs);
      child.once('error', (error) => fail(error.message));
      child.once('exit', (code, signal) =>
        fail(`the serving process ended with ${signal ?? `code ${code ?? 0}`}`),
      );
      child.once('message', (message) => {
        const said = message as Report;
        if (said.type === 'mounted') mounted(said.directory);
        else reject(new CkptError(said.code, said.message, said.data));
      });
    });
  } finally {
    clearTimeout(timer);
    if (child.connected) child.disconnect();
  }
}

function tell(context: Context, directory: string, store: Store, pid = process.pid): void {
  context.output.result(
    { directory, store: store.root, pid },
    `mounted ${store.root} on ${directory} (pid ${pid})`,
    directory,
  );
}
