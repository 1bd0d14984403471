/** ckptfs version: of the package. */
import { readFile } from 'node:fs/promises';
import type { Command } from 'commander';
import { withContext } from './context.js';

/** The version in package.json; this file runs as dist/src/cli/version.js. */
export async function packageVersion(): Promise<string> {
  const text = await readFile(new URL('../../../package.json', import.meta.url), 'utf8');
  return (JSON.parse(text) as { version: string }).version;
}

export function registerVersion(program: Command): void {
  program
    .command('version')
    .description('show the version')
    .action(
      withContext(async (context) => {
        const version = await packageVersion();
        context.output.result(
          { version, node: process.versions.node },
          `ckptfs ${version} (node ${process.versions.node})`,
          version,
        );
        return undefined;
      }),
    );
}
