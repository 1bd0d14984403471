/**
 * The user's terminal as a guest's console: raw while attached, restored on every path, Ctrl-] to leave.
 *
 * Input that is no terminal (a pipe, a file) is passed on as it is, Ctrl-] included, and its end means
 * nothing: the guest goes on.
 */

import type { Context } from './context.js';

/** Ctrl-], as in telnet and virsh: hardly ever meant for the guest. */
const leaveKey = 0x1d;

/** A guard over stdin; dispose it to give the terminal back. */
export interface Attachment extends Disposable {
  /** Resolves when the user presses Ctrl-]. */
  readonly left: Promise<void>;
}

/** Sends what is typed to `onInput` until disposed. */
export function attachTerminal(onInput: (bytes: Uint8Array) => void): Attachment {
  const { stdin } = process;
  let leave: () => void = () => undefined;
  const left = new Promise<void>((resolve) => (leave = resolve));
  const isTerminal = stdin.isTTY;
  const onData = (bytes: Buffer): void => {
    const at = isTerminal ? bytes.indexOf(leaveKey) : -1;
    const input = at < 0 ? bytes : bytes.subarray(0, at);
    if (input.length > 0) onInput(input);
    if (at >= 0) leave();
  };
  // A closed stdin is an empty one.
  const onError = (): void => undefined;
  if (isTerminal) stdin.setRawMode(true);
  stdin.on('data', onData);
  stdin.on('error', onError);
  stdin.resume();
  return {
    left,
    [Symbol.dispose]() {
      stdin.off('data', onData);
      if (isTerminal) stdin.setRawMode(false);
      // A pipe that nobody closes would keep the process alive.
      stdin.destroy();
    },
  };
}

/** Prints a guest's console on stdout as it is; with --json in status objects. */
export function consolePrinter(context: Context, vm: string): (bytes: Uint8Array) => void {
  const decoder = new TextDecoder();
  return (bytes) => {
    if (context.output.json) {
      context.output.status({ vm, console: decoder.decode(bytes, { stream: true }) });
    } else {
      process.stdout.write(bytes);
    }
  };
}
