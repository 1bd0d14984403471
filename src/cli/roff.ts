/** Writes manual pages in the man macros of roff (groff_man(7)), from plain text. */

/** Text as roff prints it, whatever is in it. Lines that would be taken for requests are not. */
export function plain(text: string): string {
  return text
    .replace(/\\/g, '\\e')
    .replace(/-/g, '\\-')
    .replace(/^(?=[.'])/gm, '\\&');
}

export function bold(text: string): string {
  return `\\fB${plain(text)}\\fR`;
}

/** A page, piece by piece; what is given is plain text unless it says roff. */
export class Roff {
  readonly #lines: string[] = [];

  /** `source` is the program and its version, `date` of the form 2026-01-31. */
  constructor(page: { name: string; section: number; date: string; source: string }) {
    const { name, section, date, source } = page;
    this.#lines.push(`.TH ${name.toUpperCase()} ${section} ${date} "${source}"`);
  }

  section(title: string): this {
    return this.roff(`.SH ${title}`);
  }

  subsection(title: string): this {
    return this.roff(`.SS ${plain(title)}`);
  }

  /** Paragraphs are parted by empty lines. */
  text(text: string): this {
    return this.#paragraphs(text, '.PP');
  }

  /** A term, which is roff, and what it means. */
  item(roff: string, text: string): this {
    return this.roff('.TP').roff(roff).#paragraphs(text, '.IP');
  }

  /** Lines as they are. */
  example(lines: string): this {
    return this.roff('.PP').roff('.RS 4').roff('.nf').roff(plain(lines)).roff('.fi').roff('.RE');
  }

  roff(line: string): this {
    this.#lines.push(line);
    return this;
  }

  toString(): string {
    return `${this.#lines.join('\n')}\n`;
  }

  #paragraphs(text: string, between: string): this {
    const paragraphs = text
      .split(/\n\s*\n/)
      .map((paragraph) => plain(paragraph.trim().replace(/\s*\n\s*/g, '\n')));
    return this.roff(paragraphs.filter((paragraph) => paragraph !== '').join(`\n${between}\n`));
  }
}
