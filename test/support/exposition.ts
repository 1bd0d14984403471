/** Metrics in the text format of Prometheus, read as strictly as its definition has it. */

const help = /^# HELP ([a-zA-Z_:][a-zA-Z0-9_:]*) (?:[^\\\n]|\\\\|\\n)*$/;
const type = /^# TYPE ([a-zA-Z_:][a-zA-Z0-9_:]*) (counter|gauge)$/;
const label = '[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\\\\n]|\\\\\\\\|\\\\"|\\\\n)*"';
const sample = new RegExp(
  `^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\\{${label}(?:,${label})*\\})? (-?\\d+(?:\\.\\d+)?(?:e[+-]?\\d+)?)$`,
);

/** The samples by name and labels; throws at whatever is not valid. */
export function samplesOf(text: string): Map<string, number> {
  if (!text.endsWith('\n')) throw new Error('the last line does not end');
  const samples = new Map<string, number>();
  const kinds = new Map<string, string>();
  let named: string | undefined;
  for (const line of text.slice(0, -1).split('\n')) {
    const [, helped] = help.exec(line) ?? [];
    const [, typed, kind] = type.exec(line) ?? [];
    const [, name, value] = sample.exec(line) ?? [];
    if (helped !== undefined) {
      if (kinds.has(helped)) throw new Error(`${helped} comes twice`);
      named = helped;
    } else if (typed !== undefined && kind !== undefined) {
      if (typed !== named) throw new Error(`the type of ${typed} has no help before it`);
      kinds.set(typed, kind);
    } else if (name !== undefined) {
      if (name !== named || !kinds.has(name)) throw new Error(`${name} is not below its type`);
      if ((kinds.get(name) === 'counter') !== name.endsWith('_total')) {
        throw new Error(`${name} is a ${kinds.get(name)}`);
      }
      const key = line.slice(0, line.lastIndexOf(' '));
      if (samples.has(key)) throw new Error(`${key} comes twice`);
      samples.set(key, Number(value));
    } else {
      throw new Error(`no metric: ${line}`);
    }
  }
  return samples;
}
