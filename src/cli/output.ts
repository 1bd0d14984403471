/**
 * What commands print. For programs (`--json`): one object a line on stdout, `type` being status, result
 * or error. For people: results on stdout, all else on stderr, an error as one line.
 */
import { format } from 'node:util';
import { type CkptError, type ErrorCode, toCkptError } from '../errors.js';

export interface OutputOptions {
  json?: boolean | undefined;
  quiet?: boolean | undefined;
  verbose?: boolean | undefined;
}

export class Output {
  readonly json: boolean;
  readonly quiet: boolean;
  readonly verbose: boolean;

  constructor(options: OutputOptions) {
    this.json = options.json === true;
    this.quiet = options.quiet === true;
    this.verbose = options.verbose === true;
  }

  /** A result: the object for programs, `text` for people, `brief` (or nothing) for people who want quiet. */
  result(value: object, text: string, brief?: string): void {
    if (this.json) this.#object('result', value);
    else if (!this.quiet) writeLine(process.stdout, text);
    else if (brief !== undefined) writeLine(process.stdout, brief);
  }

  /** Many results of a kind: an object each for programs, a table for people, one word each when quiet. */
  results<T extends object>(rows: readonly T[], table: Table<T>): void {
    if (this.json) rows.forEach((row) => this.#object('result', row));
    else if (this.quiet) rows.forEach((row) => writeLine(process.stdout, table.brief(row)));
    else if (rows.length > 0) writeLine(process.stdout, formatTable(rows, table));
    else this.note(table.none);
  }

  /** What is going on: for programs always; for people when it has a text and they did not ask for quiet. */
  status(value: object, text?: string): void {
    if (this.json) this.#object('status', value);
    else if (text !== undefined) this.note(text);
  }

  /** A line for people beside the results. */
  note(text: string): void {
    if (!this.json && !this.quiet) writeLine(process.stderr, text);
  }

  /** A line for people who asked for more. */
  detail(text: string): void {
    if (this.verbose) this.note(text);
  }

  /** A failure; with DEBUG set also its stack and causes. */
  error(failure: unknown): void {
    const error = toCkptError(failure);
    if (this.json) {
      const { code, data, exitCode } = error;
      this.#object('error', { code, message: oneLine(error), exitCode, data });
    } else {
      writeLine(process.stderr, `ckptfs: ${oneLine(error)}`);
    }
    if (process.env.DEBUG) writeLine(process.stderr, format('%o', error));
  }

  #object(type: 'result' | 'status' | 'error', value: object): void {
    writeLine(process.stdout, JSON.stringify({ type, ...value }));
  }
}

/** How rows look for people. */
export interface Table<T> {
  columns: { title: string; value: (row: T) => string; right?: boolean }[];
  /** The one word of a row that a script would want. */
  brief: (row: T) => string;
  /** What to say instead of an empty table. */
  none: string;
}

/** Columns aligned by width, two spaces apart, under their titles. */
export function formatTable<T>(rows: readonly T[], table: Table<T>): string {
  const cells = [
    table.columns.map((column) => column.title),
    ...rows.map((row) => table.columns.map((column) => column.value(row))),
  ];
  const widths = table.columns.map((_, i) =>
    Math.max(...cells.map((line) => line[i]?.length ?? 0)),
  );
  const aligned = cells.map((line) =>
    line.map((cell, i) => {
      const width = widths[i] ?? 0;
      return table.columns[i]?.right ? cell.padStart(width) : cell.padEnd(width);
    }),
  );
  return aligned.map((line) => line.join('  ').trimEnd()).join('\n');
}

/** `name: value` lines, the values aligned; undefined values are left out. */
export function formatFields(fields: [string, string | undefined][]): string {
  const given = fields.filter((field): field is [string, string] => field[1] !== undefined);
  const width = Math.max(...given.map(([name]) => name.length)) + 1;
  return given.map(([name, value]) => `${`${name}:`.padEnd(width)} ${value}`).join('\n');
}

/** What to do about failures whose message does not say it: those of the addon. */
const remedies: Partial<Record<ErrorCode, string>> = {
  NO_SPACE: 'free some space and try again',
  IO: 'check the storage and its permissions',
  DAMAGED: 'restore the file from a backup, or remove what it belongs to',
};

/** The message in one line, whatever a path or a guest put into it, with its remedy. */
function oneLine({ code, message }: CkptError): string {
  // eslint-disable-next-line no-control-regex -- that is what it is for
  const line = message.replace(/[\u0000-\u001f\u007f]+/g, ' ').trim();
  const remedy = remedies[code];
  return remedy === undefined || line.includes('; ') ? line : `${line}; ${remedy}`;
}

function writeLine(stream: NodeJS.WriteStream, text: string): void {
  stream.write(`${text}\n`);
}
