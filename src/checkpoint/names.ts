/**
 * Names of VMs and checkpoints, checkpoint ids, and the references that people type.
 *
 * A name is one path component that needs no quoting anywhere and never starts with a dot, so that the
 * store's own directories (`.tmp-<id>`) cannot collide with one. `latest` is the mount's and the
 * references' word for the newest checkpoint and hence nobody's name. An id is 128 random bits in hex.
 */
import { randomBytes } from 'node:crypto';
import { CkptError } from '../errors.js';

const namePattern = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;
const idPattern = /^[0-9a-f]{32}$/;
const idPrefixPattern = /^[0-9a-f]{4,32}$/;

export const latestName = 'latest';
/** What unpublished and half-removed checkpoint directories start with. */
export const temporaryPrefix = '.tmp-';
/** What the compacted checkpoints that are yet to be exchanged, and the exchanged ones, start with. */
export const compactionPrefix = `${temporaryPrefix}compact-`;
/** What checkpoints that come from another store start with until they are published. */
export const receptionPrefix = `${temporaryPrefix}receive-`;

export function isName(text: string): boolean {
  return namePattern.test(text) && text !== latestName;
}

/** Returns `text` if it can name a VM or a checkpoint (`what`); else USAGE. */
export function checkName(what: 'VM' | 'checkpoint' | 'disk', text: string): string {
  if (isName(text)) return text;
  const why =
    text === latestName
      ? `"${latestName}" stands for the newest checkpoint`
      : 'a name has 1 to 64 letters, digits, ".", "_" or "-" and starts with a letter or digit';
  throw new CkptError('USAGE', `${JSON.stringify(text)} cannot name a ${what}: ${why}`, {
    name: text,
  });
}

export function newId(): string {
  return randomBytes(16).toString('hex');
}

export function isId(text: string): boolean {
  return idPattern.test(text);
}

/** The name of a checkpoint that was given none: its time, to the second, e.g. 2026-11-20T10-15-00Z. */
export function timeName(time: Date): string {
  return time
    .toISOString()
    .replace(/\.\d+Z$/, 'Z')
    .replaceAll(':', '-');
}

/** A checkpoint as a person refers to it. */
export type Reference =
  | { kind: 'name'; vm: string; name: string }
  | { kind: 'latest'; vm: string }
  | { kind: 'id'; prefix: string };

/** Reads `vm@name`, `vm@latest`, an id or a prefix of one (4 digits or more); else USAGE. */
export function parseReference(text: string): Reference {
  const at = text.indexOf('@');
  if (at >= 0) {
    const vm = checkName('VM', text.slice(0, at));
    const name = text.slice(at + 1);
    return name === latestName
      ? { kind: 'latest', vm }
      : { kind: 'name', vm, name: checkName('checkpoint', name) };
  }
  const prefix = text.toLowerCase();
  if (idPrefixPattern.test(prefix)) return { kind: 'id', prefix };
  throw new CkptError(
    'USAGE',
    `${JSON.stringify(text)} is not a checkpoint; give VM@NAME, VM@latest, or 4 or more digits of an id`,
    { reference: text },
  );
}
