/** ckptfs completion: completion of commands and options for bash, zsh and fish, made from the program. */
import { Argument, type Command } from 'commander';
import { withContext } from './context.js';

const shells = ['bash', 'zsh', 'fish'] as const;
type Shell = (typeof shells)[number];

export function registerCompletion(program: Command): void {
  program
    .command('completion')
    .addArgument(new Argument('<shell>').choices(shells))
    .description('print a completion script, e.g. for: source <(ckptfs completion bash)')
    .action(
      withContext((_context, _options: object, shell: Shell) => {
        process.stdout.write(script(program, shell));
        return Promise.resolve(undefined);
      }),
    );
}

/** Long options of a command, with the global ones. */
function optionsOf(program: Command, command: Command): string[] {
  return [...command.options, ...program.options].flatMap((option) => option.long ?? []);
}

function script(program: Command, shell: Shell): string {
  const commands = program.commands.map((command) => command.name());
  if (shell === 'fish') {
    const lines = program.commands.flatMap((command) => [
      `complete -c ckptfs -n __fish_use_subcommand -f -a ${command.name()}`,
      ...command.options.map(
        ({ long }) =>
          `complete -c ckptfs -n '__fish_seen_subcommand_from ${command.name()}' -l ${long?.slice(2)}`,
      ),
    ]);
    const globals = program.options.map(({ long }) => `complete -c ckptfs -l ${long?.slice(2)}`);
    return `${[...lines, ...globals].join('\n')}\n`;
  }
  const cases = program.commands.map(
    (command) => `    ${command.name()}) words="${optionsOf(program, command).join(' ')}" ;;`,
  );
  // zsh runs the function of bash through its own emulation.
  const prologue = shell === 'zsh' ? 'autoload -U +X bashcompinit && bashcompinit\n' : '';
  return `${prologue}_ckptfs() {
  local words
  case "\${COMP_WORDS[1]}" in
${cases.join('\n')}
    *) words="${commands.join(' ')}" ;;
  esac
  [ "$COMP_CWORD" -eq 1 ] && words="${commands.join(' ')}"
  COMPREPLY=($(compgen -W "$words" -- "\${COMP_WORDS[COMP_CWORD]}"))
}
complete -o default -F _ckptfs ckptfs
`;
}
