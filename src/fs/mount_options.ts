/**
 * Mount options besides those of ckptfs itself: whose the files are and who may do what, as NTFS and vfat have
 * them; and what fstab says to others, mount(8) and systemd among them, which is passed over.
 */
import { readFile } from 'node:fs/promises';
import { CkptError } from '../errors.js';
import type { TransportOptions } from './transport.js';
import type { Tree } from './tree.js';

const fuseConfiguration = '/etc/fuse.conf';

/** Whose the files show to be, and the permissions that they do not have. */
export interface Ownership {
  uid: number;
  gid: number;
  umask: number;
}

/** Everything belongs to the user who mounts. */
export function ownOwnership(): Ownership {
  return { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0, umask: 0 };
}

/**
 * What may stand in fstab for any filesystem and means nothing to this one (mount(8), systemd.mount(5)). Not suid, dev and
 * exec, which ask for what no mount gives.
 */
const foreignNames = new Set(
  [
    'defaults auto noauto user nouser users owner group nofail _netdev silent loud',
    'async sync dirsync atime noatime diratime nodiratime relatime norelatime strictatime nostrictatime',
    'lazytime nolazytime iversion noiversion mand nomand nosuid nodev noexec nosymfollow symfollow',
  ].flatMap((names) => names.split(' ')),
);
const foreignPrefixes = ['x-', 'X-', 'comment=', 'user=', 'uhelper=', 'helper='];

/** Ids of 32 bits, of which the last one means "no change" to system calls. */
const maxId = 2 ** 32 - 2;
const owners: Record<keyof Ownership, { digits: RegExp; base: number; limit: number }> = {
  uid: { digits: /^\d+$/, base: 10, limit: maxId },
  gid: { digits: /^\d+$/, base: 10, limit: maxId },
  umask: { digits: /^[0-7]+$/, base: 8, limit: 0o777 },
};

/** Takes the words of a comma list apart: ownership, and the words for ckptfs itself. USAGE. */
export function splitMountOptions(text: string): {
  ownership?: Partial<Ownership>;
  words: string[];
} {
  const given: Partial<Ownership> = {};
  const words: string[] = [];
  for (const word of text.split(',')) {
    const [name = '', value] = word.split('=', 2);
    if (Object.hasOwn(owners, name)) given[name as keyof Ownership] = ownerValue(name, value);
    else if (word !== '' && !isForeign(word)) words.push(word);
  }
  return Object.keys(given).length === 0 ? { words } : { ownership: given, words };
}

function isForeign(word: string): boolean {
  return foreignNames.has(word) || foreignPrefixes.some((prefix) => word.startsWith(prefix));
}

function ownerValue(name: string, text = ''): number {
  const { digits, base, limit } = owners[name as keyof Ownership];
  const value = digits.test(text) ? parseInt(text, base) : NaN;
  if (value <= limit) return value;
  const what = base === 8 ? 'an octal number up to 777' : 'a number (see id(1))';
  throw new CkptError('USAGE', `mount option ${name}=${text} is not valid; give ${what}`, {
    option: name,
  });
}

/** The system's word on whether a user may use allow_other, which fusermount would only say on its stderr. */
export async function checkAllowOther(): Promise<void> {
  if (process.getuid?.() === 0) return;
  const text = await readFile(fuseConfiguration, 'utf8').catch(() => '');
  if (/^user_allow_other\s*$/m.test(text)) return;
  throw new CkptError(
    'UNSUPPORTED',
    `only root may use allow_other here; without it the mount is yours alone, or have the line user_allow_other put into ${fuseConfiguration}`,
  );
}

/** What every transport tells the kernel. */
export function kernelOptions(tree: Tree, options: Pick<TransportOptions, 'allowOther'>): string[] {
  // The store shows as the source of the mount, so that mount -a finds what it has mounted.
  const source = tree.view.root.replace(/[\\,]/g, (character) => `\\${character}`);
  return [
    ...['nosuid', 'nodev', 'noexec', `fsname=${source}`, 'subtype=ckptfs'],
    tree.writable ? 'rw' : 'ro',
    // Who may look in at all is up to allow_other. Then everything may be read, unless modes are asked for;
    // who may write is up to them in any case.
    ...(tree.writable || tree.ownership !== undefined ? ['default_permissions'] : []),
    ...(options.allowOther ? ['allow_other'] : []),
  ];
}
