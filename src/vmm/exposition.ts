/** The text format in which Prometheus reads metrics (exposition format 0.0.4). */

/** Numbers of one kind. Units are base units: seconds, bytes; a counter's name ends with _total. */
export interface Metric {
  name: string;
  help: string;
  type: 'gauge' | 'counter';
  samples: readonly { labels?: Readonly<Record<string, string>>; value: number }[];
}

export const expositionType = 'text/plain; version=0.0.4; charset=utf-8';

/** All metrics as text, each with its help and type; those without a sample are left out. `labels` go to every sample. */
export function expose(metrics: readonly Metric[], labels: Record<string, string> = {}): string {
  return metrics
    .filter(({ samples }) => samples.length > 0)
    .map(({ name, help, type, samples }) => {
      const lines = samples.map(
        (sample) => `${name}${labelText({ ...labels, ...sample.labels })} ${sample.value}\n`,
      );
      return `# HELP ${name} ${escaped(help)}\n# TYPE ${name} ${type}\n${lines.join('')}`;
    })
    .join('');
}

function labelText(labels: Record<string, string>): string {
  const pairs = Object.entries(labels).map(
    ([name, value]) => `${name}="${escaped(value).replaceAll('"', '\\"')}"`,
  );
  return pairs.length === 0 ? '' : `{${pairs.join(',')}}`;
}

function escaped(text: string): string {
  return text.replaceAll('\\', '\\\\').replaceAll('\n', '\\n');
}
