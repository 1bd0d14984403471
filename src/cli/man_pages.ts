/**
 * The manual pages: ckptfs(1), whose commands and options are those of the program, and mount.fuse.ckptfs(8). What no
 * definition has - files, environment, examples - stands here.
 */
import type { EventEmitter } from 'node:events';
import type { Argument, Command, Option } from 'commander';
import { exitCodes } from '../errors.js';
import { bold, plain, Roff } from './roff.js';

/** Of the words below, not of the build: pages of one source are the same. */
const date = '2026-11-22';

const statusTexts: Record<keyof typeof exitCodes, string> = {
  done: 'Done.',
  failed: 'Failed.',
  usage: 'Wrong usage, or a configuration that cannot be.',
  partly: 'Done in part.',
  damaged: 'Damage was found.',
  notFound: 'There is no such VM, checkpoint, store or file.',
  busy: 'In use by another program or process.',
  interrupted: 'Interrupted by Ctrl-C; after another signal, 128 and its number.',
};

const about = `ckptfs runs virtual machines, takes checkpoints of them while they run, and lets them go on from any checkpoint.
A store is a directory with the VMs and their checkpoints. Mounted, it shows the RAM and the disks of
every checkpoint as ordinary files.`;

const environment: [string, string][] = [
  ['CKPTFS_STORE', 'The store, where --store is not given.'],
  ['XDG_DATA_HOME', 'Has the store in its directory ckptfs, where nothing else says where it is.'],
  [
    'CKPTFS_SSH',
    'The ssh client with options of its own, for backup, recover and doctor; ssh by default.',
  ],
  ['CKPTFS_REMOTE', 'ckptfs at the far end of ssh, as its shell finds it; ckptfs by default.'],
  ['TMPDIR', 'Where a mount with -o rw keeps what is written to it, and recover --test its store.'],
  ['DEBUG', 'ckptfs:* logs everything to stderr, ckptfs:fs the mount alone.'],
  ['NOTIFY_SOCKET', 'Set by systemd: run and mount -f tell it when they are ready.'],
];

const files: [string, string][] = [
  ['~/.local/share/ckptfs', 'The store, if nothing says otherwise.'],
  ['STORE/vms/VM/checkpoints/NAME', 'A checkpoint: a directory that can be copied and removed.'],
  ['STORE/vms/VM/incoming', 'What has come so far of a checkpoint that is being received.'],
  ['STORE/vms/VM/console.log', 'What the guest printed.'],
  ['STORE/vms/VM/process.log', 'What the process of a VM in the background reported.'],
  ['STORE/mount.log', 'What mounts in the background reported.'],
  ['/etc/fuse.conf', 'Says whether users may use allow_other.'],
];

const examples: [string, string][] = [
  [
    'A VM in the background, two live checkpoints of it, and back to the first:',
    `ckptfs run --name web --kernel Image --initrd initrd --disk disk.img --detach
ckptfs checkpoint web --name before
ckptfs checkpoint web --name after
ckptfs stop web
ckptfs restore web@before --lazy`,
  ],
  [
    'Three VMs at one moment, and a second VM that goes on from where one of them is:',
    `ckptfs checkpoint web db cache --name nightly
ckptfs clone web --name trial --detach`,
  ],
  [
    'The files of a checkpoint:',
    `ckptfs mount ~/ckpt
ls -l ~/ckpt/vms/web/checkpoints/before
mount -o loop,ro,noload ~/ckpt/vms/web/checkpoints/before/disks/vda /mnt
umount /mnt
ckptfs umount ~/ckpt`,
  ],
  [
    'The newest five checkpoints and one of each of 24 hours are kept:',
    'ckptfs prune web --keep-last 5 --keep-hourly 24 && ckptfs compact web',
  ],
  [
    'A backup to another host, and the VM on there:',
    `ckptfs backup web --to ssh://root@second/srv/backup
ckptfs recover /srv/backup web@latest --detach`,
  ],
  [
    'A VM copied to another host while it runs, where a second one goes on:',
    'ckptfs clone web --to ssh://root@second/srv/clones --start',
  ],
];

/** ckptfs(1), from the definitions of the program. */
export function ckptfsPage(program: Command, version: string): string {
  const page = new Roff({ name: 'ckptfs', section: 1, date, source: `ckptfs ${version}` });
  page.section('NAME').roff(`ckptfs \\- ${plain(lowered(program.description()))}`);
  page
    .section('SYNOPSIS')
    .roff(`${bold('ckptfs')} [\\fIoptions\\fR] \\fIcommand\\fR [\\fIarguments\\fR]`);
  page.section('DESCRIPTION').text(`${about}\n\n${helpAround(program)}`);
  page.section('OPTIONS').text('They may stand before or behind the command.');
  for (const option of optionsOf(program)) addOption(page, option);
  page.section('COMMANDS');
  for (const command of program.commands) addCommand(page, command, 'ckptfs');
  page.section('EXIT STATUS');
  for (const [name, code] of Object.entries(exitCodes)) {
    page.item(bold(String(code)), statusTexts[name as keyof typeof exitCodes]);
  }
  page.section('ENVIRONMENT');
  for (const [name, text] of environment) page.item(bold(name), text);
  page.section('FILES');
  for (const [name, text] of files) page.item(`\\fI${plain(name)}\\fR`, text);
  page.section('EXAMPLES');
  for (const [text, lines] of examples) page.text(text).example(lines);
  page.section('SEE ALSO').roff('.BR mount.fuse.ckptfs (8),\n.BR fusermount3 (1),\n.BR umount (8)');
  return page.toString();
}

/** mount.fuse.ckptfs(8). */
export function mountPage(version: string): string {
  const name = 'mount.fuse.ckptfs';
  const page = new Roff({ name, section: 8, date, source: `ckptfs ${version}` });
  page.section('NAME').roff(`${name} \\- mount a store of ckptfs`);
  page
    .section('SYNOPSIS')
    .roff(
      `${bold('mount -t fuse.ckptfs')} [${bold('-o')} \\fIoptions\\fR] \\fIstore\\fR \\fIdirectory\\fR`,
    );
  page.section('DESCRIPTION').text(
    `mount(8) runs this helper for the type fuse.ckptfs, also from fstab. It does what "ckptfs mount" does: the store shows as
files in the directory, served by a process of its own; it returns when they can be read.

mount(8) asks for rw where nothing says ro. The source of the mount is the store.`,
  );
  page.section('OPTIONS');
  for (const [option, text] of mountOptions) page.item(bold(option), text);
  page.section('EXIT STATUS');
  page.item(bold('0'), 'Mounted.').item(bold('1'), 'Wrong usage, or an unknown option.');
  page.item(bold('32'), 'Any other failure, told on stderr.');
  page.section('FILES');
  page.item('\\fI/sbin/mount.fuse.ckptfs\\fR', 'Where mount(8) looks for it: a link will do.');
  page.section('EXAMPLES').text('A line of /etc/fstab:');
  page.example('/var/lib/ckptfs  /srv/ckpt  fuse.ckptfs  ro,allow_other,_netdev,nofail  0 0');
  page.section('SEE ALSO').roff('.BR ckptfs (1),\n.BR fstab (5),\n.BR mount (8)');
  return page.toString();
}

const mountOptions: [string, string][] = [
  ['ro', 'Nothing can be written.'],
  [
    'rw',
    'The disks of checkpoints take writes, for this mount alone; no checkpoint changes. mkdir and rmdir take and remove checkpoints.',
  ],
  ['overlay=DIR', 'With rw: keeps what is written to disks in DIR, for later mounts.'],
  [
    'allow_other',
    'Other users may look in. Users who mount need user_allow_other in /etc/fuse.conf.',
  ],
  ['uid=N, gid=N', 'Whose the files show to be; by default the user who mounts.'],
  [
    'umask=OCTAL',
    'Permissions that nothing has. With any of these three, owner and mode say who may read; without, everyone may who may look in.',
  ],
];

function addCommand(page: Roff, command: Command, above: string): void {
  const path = `${above} ${command.name()}`;
  page.subsection(`${path} ${command.usage()}`.trim());
  const about = [`${raised(command.description())}.`, helpAround(command)];
  page.text(about.join('\n\n'));
  for (const argument of command.registeredArguments) addArgument(page, argument);
  for (const option of optionsOf(command)) addOption(page, option);
  for (const below of command.commands) addCommand(page, below, path);
}

function optionsOf(command: Command): Option[] {
  return command.options.filter((option) => !option.hidden);
}

function addArgument(page: Roff, argument: Argument): void {
  const { description } = argument;
  if (description !== '') page.item(`\\fI${plain(argument.name())}\\fR`, sentence(description));
}

function addOption(page: Roff, option: Option): void {
  const choices = option.argChoices === undefined ? '' : ` (${option.argChoices.join(', ')})`;
  const value: unknown = option.defaultValue;
  const standard = typeof value === 'string' ? ` (default: ${value})` : '';
  page.item(bold(option.flags), sentence(`${option.description}${choices}${standard}`));
}

function sentence(text: string): string {
  return `${raised(text)}.`;
}

/** What its help says after all else. */
function helpAround(command: Command): string {
  let text = '';
  // Commands are emitters, which their types do not tell.
  (command as unknown as EventEmitter).emit('afterHelp', {
    error: false,
    command,
    write: (piece: string) => (text += piece),
  });
  return text.trim();
}

function raised(text: string): string {
  // vCPUs are left as they are.
  return /^[a-z][a-z ]/.test(text) ? text.charAt(0).toUpperCase() + text.slice(1) : text;
}

function lowered(text: string): string {
  return text.charAt(0).toLowerCase() + text.slice(1);
}
