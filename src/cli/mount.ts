/**
 * ckptfs mount: a store as files, read-only. By default the mount is served by a process of its own, which
 * this one starts and hears from over a channel: {@link Report}; with -f it is served here.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { open, statfs } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import type { Command } from 'commander';
import type { Store } from '../checkpoint/store.js';
import { CkptError, type ErrorCode, toCkptError } from '../errors.js';
import { type Context, withContext } from './context.js';

/** How long the mount may take to answer: more than the transport allows itself. */
const startLimitMs = 30_000;
const logName = 'mount.log';

interface Options {
  options: string;
  transport: string;
  foreground?: boolean;
}

/** What the serving process tells the one that started it, once. */
type Report =
  | { type: 'mounted'; directory: string }
  | { type: 'error'; code: ErrorCode; message: string; data: Record<string, unknown> };

export function registerMount(program: Command): void {
  program
    .command('mount')
    .description('show a store as files in an empty directory, read-only')
    .usage('[options] [store] <dir>')
    .argument('<store and dir...>', 'the store (else --store), and where to mount it')
    .option('-o, --options <list>', 'comma list of: allow_other, ro', 'ro')
    .option('--transport <name>', 'fuse-native or libfuse3', 'fuse-native')
    .option('-f, --foreground', 'serve the mount here until Ctrl-C, umount or SIGTERM')
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
      ...parseMountOptions(options.options),
      transport: parseTransport(options.transport),
      onError: (line) =>
        context.output.status({ error: line }, `${new Date().toISOString()} ${line}`),
    });
    if (process.send === undefined) tell(context, mounted.directory, store);
    else await report({ type: 'mounted', directory: mounted.directory });
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
  // A store that cannot be written can be mounted, only its mount has no log.
  const log = await open(join(store.root, logName), 'a', 0o600).catch(() => undefined);
  try {
    const command = ['mount', '-f', '-o', options.options, '--transport', options.transport];
    const child = spawn(
      process.execPath,
      [
        ...process.execArgv,
        process.argv[1] ?? '',
        ...command,
        '--',
        store.root,
        resolve(directory),
      ],
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
