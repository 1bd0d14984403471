/**
 * The shape of the source tree, held by machine: who may import whom (docs/design.md), who may touch Node's
 * API and FUSE, how long a file may be, and what may not stand in one.
 *
 * Every rule also counts what it looked at, so that a moved directory cannot switch it off.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';

const root = fileURLToPath(new URL('../../', import.meta.url));

/** Files below `directory` with one of the endings, by path from the root. */
function files(directory: string, endings: string[]): string[] {
  return readdirSync(join(root, directory), { recursive: true, encoding: 'utf8' })
    .filter((file) => endings.some((ending) => file.endsWith(ending)))
    .map((file) => join(directory, file))
    .sort();
}

const read = (file: string): string => readFileSync(join(root, file), 'utf8');

const matches = (file: string, pattern: RegExp): string[] =>
  [...read(file).matchAll(pattern)].map((match) => match[1] ?? '');

const sources = {
  typescript: files('src', ['.ts']),
  native: files('native', ['.h', '.cc']).filter(
    (file) => !/^native\/(test|fuzz|bench)\//.test(file),
  ),
  all: [
    ...['src', 'test', 'bench', 'scripts'].flatMap((directory) => files(directory, ['.ts'])),
    ...files('native', ['.h', '.cc', 'Makefile']),
    ...files('test/guests', ['.h', '.c', '.S']),
  ],
};

/** What each part of src/ may import besides itself. */
const typescriptLayers: Record<string, string[]> = {
  errors: [],
  native: ['errors'],
  types: ['native'],
  checkpoint: ['types', 'native', 'errors'],
  vmm: ['checkpoint', 'types', 'native', 'errors'],
  fs: ['vmm', 'checkpoint', 'types', 'native', 'errors'],
  transfer: ['vmm', 'checkpoint', 'types', 'native', 'errors'],
  protect: ['transfer', 'vmm', 'checkpoint', 'types', 'native', 'errors'],
  index: ['protect', 'transfer', 'fs', 'vmm', 'checkpoint', 'types', 'native', 'errors'],
  cli: ['protect', 'transfer', 'fs', 'vmm', 'checkpoint', 'types', 'native', 'errors'],
};

/** What each part of native/ may include besides itself. */
const nativeLayers: Record<string, string[]> = {
  base: [],
  disk: ['base'],
  memory: ['base'],
  cpu: ['memory', 'base'],
  devices: ['memory', 'disk', 'base'],
  checkpoint: ['memory', 'disk', 'base'],
  machine: ['checkpoint', 'devices', 'cpu', 'memory', 'disk', 'base'],
  fuse: ['base'],
  binding: ['machine', 'fuse', 'checkpoint', 'devices', 'cpu', 'memory', 'disk', 'base'],
  addon: ['binding', 'machine', 'fuse', 'checkpoint', 'devices', 'cpu', 'memory', 'disk', 'base'],
};

/** What each room of native/checkpoint may include besides itself; what lies outside the rooms is for all. */
const checkpointRooms: Record<string, string[]> = {
  image: [],
  save: ['image'],
  restore: ['image'],
  upkeep: ['image'],
};

/** src/vmm/boot.ts → vmm, native/addon.cc → addon. */
const layerOf = (file: string): string => (file.split('/')[1] ?? '').replace(/\.\w+$/, '');

/** Sentences on imports that the table forbids, and how many imports were judged. */
function forbidden(
  list: string[],
  layers: Record<string, string[]>,
  importsOf: (file: string) => string[],
): { wrong: string[]; judged: number } {
  const wrong: string[] = [];
  let judged = 0;
  for (const file of list) {
    const layer = layerOf(file);
    for (const imported of importsOf(file)) {
      judged++;
      const target = layerOf(imported);
      if (target !== layer && !layers[layer]?.includes(target)) {
        wrong.push(`${file} imports ${imported}`);
      }
    }
  }
  return { wrong, judged };
}

const typescriptImports = (file: string): string[] =>
  matches(file, /(?:from|import)\s*\(?\s*'(\.[^']*)'/g).map((path) =>
    normalize(join(dirname(file), path)),
  );

const nativeIncludes = (file: string): string[] =>
  matches(file, /^#include "([^"]*)"/gm).map((path) => join('native', path));

t.test('imports of TypeScript run one way', async (t) => {
  const { wrong, judged } = forbidden(sources.typescript, typescriptLayers, typescriptImports);
  t.same(wrong, []);
  t.ok(judged > 10, 'found imports');
});

t.test('includes of C++ run one way', async (t) => {
  const { wrong, judged } = forbidden(sources.native, nativeLayers, nativeIncludes);
  t.same(wrong, []);
  t.ok(judged > 10, 'found includes');
});

t.test('the rooms of native/checkpoint know the image format, not one another', async (t) => {
  const room = (file: string): string => /checkpoint\/(\w+)\//.exec(file)?.[1] ?? '';
  const wrong: string[] = [];
  const seen = new Set<string>();
  for (const file of sources.native.filter((path) => room(path) !== '')) {
    seen.add(room(file));
    for (const included of nativeIncludes(file)) {
      const [from, to] = [room(file), room(included)];
      if (to === '' || to === from || checkpointRooms[from]?.includes(to)) continue;
      wrong.push(`${file} includes ${included}`);
    }
  }
  t.same(wrong, []);
  t.same([...seen].sort(), Object.keys(checkpointRooms).sort(), 'found every room');
});

t.test('the rule finds what it forbids', async (t) => {
  const upward = forbidden(['src/vmm/a.ts'], typescriptLayers, () => ['src/cli/b.js']);
  t.same(upward.wrong, ['src/vmm/a.ts imports src/cli/b.js']);
  const sideways = forbidden(['native/cpu/a.h'], nativeLayers, () => ['native/devices/b.h']);
  t.same(sideways.wrong, ['native/cpu/a.h imports native/devices/b.h']);
  const unknown = forbidden(['native/new/a.h'], nativeLayers, () => ['native/base/b.h']);
  t.same(unknown.wrong, ['native/new/a.h imports native/base/b.h']);
});

t.test('only the binding knows Node', async (t) => {
  const users = sources.native.filter((file) =>
    /#include <(napi|node_api|node|v8|uv)\.h>/.test(read(file)),
  );
  t.same(
    users.filter((file) => !['binding', 'addon'].includes(layerOf(file))),
    [],
  );
  t.ok(users.length > 0, 'found its users');
});

t.test('only native.ts loads the addon, only fs loads FUSE', async (t) => {
  const addonUsers = sources.typescript.filter((file) => read(file).includes('ckptfs.node'));
  t.same(addonUsers, ['src/native.ts']);
  const fuseUsers = sources.typescript.filter((file) =>
    /(?:from|import\(|require\()\s*'fuse-native'|\bfuseSessionClass\(/.test(read(file)),
  );
  t.same(
    fuseUsers.filter((file) => !['fs', 'native'].includes(layerOf(file))),
    [],
  );
  t.ok(fuseUsers.length > 1, 'found its users');
  const libfuseUsers = sources.native.filter((file) => read(file).includes('#include <fuse'));
  t.same(
    libfuseUsers.filter((file) => layerOf(file) !== 'fuse'),
    [],
  );
  t.ok(libfuseUsers.length > 0, 'found its users');
});

t.test('files are short and finished', async (t) => {
  const maximumLines = 500;
  // Spelt apart, so that this file may be judged as well.
  const unfinished = new RegExp(`\\b(${['TO' + 'DO', 'FIX' + 'ME', 'X' + 'XX'].join('|')})\\b`);
  for (const file of sources.all) {
    const text = read(file);
    const lines = text.split('\n').length - 1;
    if (lines > maximumLines) t.fail(`${file} has ${lines} lines`);
    if (unfinished.test(text)) t.fail(`${file} is marked as unfinished`);
  }
  t.match('a ' + 'TO' + 'DO here', unfinished);
  t.ok(sources.all.length > 30, 'found sources');
});

t.test('the lock file names no registry', async (t) => {
  const lock = read('package-lock.json');
  t.notMatch(lock, /"resolved"/);
  t.match(lock, /"integrity"/);
});
