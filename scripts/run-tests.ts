/**
 * Runs every test suite as a process of its own, one after the other, and adds up what they report.
 *
 * Suites: `lint`; `native/COMPONENT`, the doctest executables of native/Makefile; and every compiled
 * test/**\/*.test.ts, which prints TAP. One test is a doctest case, or a top-level test or assertion of tap.
 * A suite that crashes, hangs, or runs no test at all counts as one failed test: nothing passes by silence.
 */
import { spawn } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { Parser } from 'tap-parser';

/** No suite may take longer: above the longest by a factor, below the limit of a CI run. */
const suiteLimitSeconds = 900;
/** Of a failed suite's output, enough to find the cause. */
const shownBytes = 20_000;

interface Counts {
  passed: number;
  failed: number;
  skipped: number;
}

interface Suite {
  name: string;
  command: string[];
  /** Reads the counts from all that the suite printed; undefined when it reported none. */
  count: (output: string, exitCode: number) => Counts | undefined;
}

/** doctest ends with "[doctest] test cases: 5 | 5 passed | 0 failed | 0 skipped". */
function countDoctest(output: string): Counts | undefined {
  const found = /test cases: *\d+ *\| *(\d+) passed *\| *(\d+) failed *\| *(\d+) skipped/.exec(
    output,
  );
  return found
    ? { passed: Number(found[1]), failed: Number(found[2]), skipped: Number(found[3]) }
    : undefined;
}

function countTap(output: string): Counts | undefined {
  const counts: Counts = { passed: 0, failed: 0, skipped: 0 };
  const parser = new Parser((results) => {
    if (!results.ok && counts.failed === 0) counts.failed = 1;
  });
  parser.on('assert', ({ ok, skip, todo }) => {
    if (skip || todo) counts.skipped++;
    else if (ok) counts.passed++;
    else counts.failed++;
  });
  parser.end(output);
  return counts;
}

function countExit(_output: string, exitCode: number): Counts {
  return exitCode === 0
    ? { passed: 1, failed: 0, skipped: 0 }
    : { passed: 0, failed: 1, skipped: 0 };
}

function suites(): Suite[] {
  const components = readdirSync('native/test', { withFileTypes: true })
    .filter((entry) => entry.isDirectory())
    .map((entry) => entry.name)
    .sort();
  const compiled = readdirSync('dist/test', { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith('.test.js'))
    .sort();
  return [
    { name: 'lint', command: ['scripts/lint'], count: countExit },
    ...components.map((component) => ({
      name: `native/${component}`,
      command: [
        'make',
        '-s',
        `-j${availableParallelism()}`,
        '-C',
        'native',
        'test',
        `COMPONENT=${component}`,
      ],
      count: countDoctest,
    })),
    ...compiled.map((file) => ({
      name: `test/${file.slice(0, -'.test.js'.length)}`,
      command: [process.execPath, '--enable-source-maps', `dist/test/${file}`],
      count: countTap,
    })),
  ];
}

/** Runs one suite to its end. The suite gets no standard input, and is killed after the limit. */
function run(suite: Suite): Promise<{ counts: Counts; output: string }> {
  return new Promise((resolve) => {
    const [program = '', ...args] = suite.command;
    const child = spawn(program, args, {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, TAP_TIMEOUT: String(suiteLimitSeconds) },
    });
    let reported = '';
    let output = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      reported += text;
      output += text;
    });
    child.stderr.setEncoding('utf8').on('data', (text: string) => (output += text));
    const timer = setTimeout(() => {
      output += `\nkilled after ${suiteLimitSeconds} s\n`;
      child.kill('SIGKILL');
    }, suiteLimitSeconds * 1000);
    child.on('error', (error) => (output += error.message));
    child.on('close', (code) => {
      clearTimeout(timer);
      const counts = suite.count(reported, code ?? 1) ?? { passed: 0, failed: 0, skipped: 0 };
      if (
        counts.passed + counts.failed + counts.skipped === 0 ||
        (code !== 0 && counts.failed === 0)
      ) {
        counts.failed++;
      }
      resolve({ counts, output });
    });
  });
}

function line(name: string, { passed, failed, skipped }: Counts, seconds: number): string {
  const verdict = failed > 0 ? 'FAIL' : 'ok  ';
  const parts = [`${passed} passed`];
  if (failed > 0) parts.push(`${failed} failed`);
  if (skipped > 0) parts.push(`${skipped} skipped`);
  return `${verdict} ${name.padEnd(32)} ${seconds.toFixed(1).padStart(7)} s  ${parts.join(', ')}`;
}

const wanted = process.argv.slice(2);
const total: Counts = { passed: 0, failed: 0, skipped: 0 };
for (const suite of suites()) {
  if (wanted.length > 0 && !wanted.some((part) => suite.name.includes(part))) continue;
  const began = performance.now();
  const { counts, output } = await run(suite);
  if (counts.failed > 0) console.log(output.slice(-shownBytes));
  console.log(line(suite.name, counts, (performance.now() - began) / 1000));
  total.passed += counts.passed;
  total.failed += counts.failed;
  total.skipped += counts.skipped;
}
console.log(`${total.passed} passed, ${total.failed} failed, ${total.skipped} skipped`);
process.exitCode = total.failed > 0 || total.passed === 0 ? 1 : 0;
