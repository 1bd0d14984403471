/**
 * ckptfs completion: completion of commands, options and the names of VMs and checkpoints for bash, zsh and fish, made
 * from the program.
 */
import { Argument, type Command } from 'commander';
import { withContext } from './context.js';

const shells = ['bash', 'zsh', 'fish'] as const;
type Shell = (typeof shells)[number];

const vms = 'ckptfs list -q';
const checkpoints = 'ckptfs checkpoints -q';
/** What prints the names that an argument takes, by the argument's name. */
const namesOfArgument: Record<string, string> = {
  vm: vms,
  ckpt: checkpoints,
  before: checkpoints,
  after: checkpoints,
  what: `${vms}; ${checkpoints}`,
  source: `${vms}; ${checkpoints}`,
  disk: `${vms}; ${checkpoints}`,
};

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

/** What may follow a command: the commands below it, their and its own long options, the global ones. */
function wordsOf(program: Command, command: Command): string[] {
  const below = command.commands.map((one) => one.name());
  const long = [command, ...command.commands, program].flatMap(({ options }) =>
    options.flatMap((option) => option.long ?? []),
  );
  return [...below, ...new Set(long)];
}

/** What prints the names that the arguments of a command, or of one below it, take; '' for none. */
function namesOf(command: Command): string {
  const found = [command, ...command.commands].flatMap(({ registeredArguments }) =>
    registeredArguments.flatMap((argument) => namesOfArgument[argument.name()] ?? []),
  );
  return [...new Set(found)].join('; ');
}

function script(program: Command, shell: Shell): string {
  const commands = program.commands.map((command) => command.name());
  if (shell === 'fish') {
    const lines = program.commands.flatMap((command) => [
      `complete -c ckptfs -n __fish_use_subcommand -f -a ${command.name()}`,
      ...wordsOf(program, command).map((word) => {
        const what = word.startsWith('--') ? `-l ${word.slice(2)}` : `-f -a ${word}`;
        return `complete -c ckptfs -n '__fish_seen_subcommand_from ${command.name()}' ${what}`;
      }),
      ...(namesOf(command) === ''
        ? []
        : [
            `complete -c ckptfs -n '__fish_seen_subcommand_from ${command.name()}' -f -a '(${namesOf(command)} 2>/dev/null)'`,
          ]),
    ]);
    const globals = program.options.map(({ long }) => `complete -c ckptfs -l ${long?.slice(2)}`);
    return `${[...lines, ...globals].join('\n')}\n`;
  }
  const cases = program.commands.map(
    (command) =>
      `    ${command.name()}) words="${wordsOf(program, command).join(' ')}" names='${namesOf(command)}' ;;`,
  );
  // zsh runs the function of bash through its own emulation.
  const prologue = shell === 'zsh' ? 'autoload -U +X bashcompinit && bashcompinit\n' : '';
  // bash completes from an @ on: what stands before it must not be in the answer.
  return `${prologue}_ckptfs() {
  local words names= current="\${COMP_LINE:0:COMP_POINT}" i
  current="\${current##*[[:space:]]}"
  case "\${COMP_WORDS[1]}" in
${cases.join('\n')}
    *) words="${commands.join(' ')}" ;;
  esac
  [ "$COMP_CWORD" -eq 1 ] && words="${commands.join(' ')}"
  if [ "$COMP_CWORD" -gt 1 ] && [ -n "$names" ] && [ "\${current#-}" = "$current" ]; then
    words="$words $(
      for ((i = 2; i < COMP_CWORD; i++)); do
        if [ "\${COMP_WORDS[i]}" = --store ]; then export CKPTFS_STORE="\${COMP_WORDS[i + 1]}"; fi
      done
      eval "$names" 2>/dev/null
    )"
  fi
  COMPREPLY=($(compgen -W "$words" -- "$current"))
  case "$COMP_WORDBREAKS:$current" in
    *@*:*@*) COMPREPLY=("\${COMPREPLY[@]#"\${current%@*}"}") ;;
  esac
}
complete -o default -F _ckptfs ckptfs
`;
}
