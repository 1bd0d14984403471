/** The value of `--disk`: FILE[,id=ID][,mode=persistent|nonpersistent][,readonly]. */
import { CkptError } from '../errors.js';
import type { DiskConfig } from '../types.js';

const form = 'FILE[,id=ID][,mode=persistent|nonpersistent][,readonly]';

/** Reads one --disk; what is not given is left to the defaults. USAGE tells the part that is wrong. */
export function parseDisk(text: string): Partial<DiskConfig> {
  const [path = '', ...parts] = text.split(',');
  if (path === '') throw wrong(text, 'it names no file');
  const disk: Partial<DiskConfig> = { path };
  for (const part of parts) {
    const [key, value] = part.split(/=(.*)/s);
    if (key === 'id' && value) disk.id = value;
    else if (key === 'mode' && (value === 'persistent' || value === 'nonpersistent')) {
      disk.mode = value;
    } else if (part === 'readonly') disk.readonly = true;
    else throw wrong(text, `${JSON.stringify(part)} is not an option of a disk`);
  }
  return disk;
}

function wrong(text: string, why: string): CkptError {
  return new CkptError('USAGE', `--disk ${text}: ${why}; give ${form}`, { value: text });
}
