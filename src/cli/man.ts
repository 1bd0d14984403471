/** ckptfs man: the manual pages, made from the program as its help is. */
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Argument, type Command } from 'commander';
import { withContext } from './context.js';
import { packageVersion } from './version.js';

const pages = ['ckptfs', 'mount.fuse.ckptfs'] as const;
type PageName = (typeof pages)[number];
const sections: Record<PageName, number> = { ckptfs: 1, 'mount.fuse.ckptfs': 8 };

interface Options {
  output?: string;
}

export function registerMan(program: Command): void {
  program
    .command('man')
    .addArgument(new Argument('[page]', 'which one').choices(pages).default('ckptfs'))
    .option('-o, --output <dir>', 'write all pages to files there')
    .description('print a manual page, e.g. for: ckptfs man | man -l -')
    .action(
      withContext(async (_context, { output }: Options, page: PageName) => {
        const { ckptfsPage, mountPage } = await import('./man_pages.js');
        const version = await packageVersion();
        const textOf = (name: PageName) =>
          name === 'ckptfs' ? ckptfsPage(program, version) : mountPage(version);
        if (output === undefined) {
          process.stdout.write(textOf(page));
          return undefined;
        }
        await mkdir(output, { recursive: true });
        for (const name of pages) {
          await writeFile(join(output, `${name}.${sections[name]}`), textOf(name));
        }
        return undefined;
      }),
    );
}
