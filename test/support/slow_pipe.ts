/** Passes stdin to stdout, so many bytes a second (the first argument) and no more. */
import { setTimeout } from 'node:timers/promises';

const bytesPerSecond = Number(process.argv[2]);
const begun = performance.now();
let passed = 0;
process.stdout.on('error', () => process.exit());
for await (const chunk of process.stdin) {
  const bytes = chunk as Buffer;
  for (let at = 0; at < bytes.length; at += 16 << 10) {
    const piece = bytes.subarray(at, at + (16 << 10));
    passed += piece.length;
    const dueMs = (passed / bytesPerSecond) * 1000 - (performance.now() - begun);
    if (dueMs > 1) await setTimeout(dueMs);
    process.stdout.write(piece);
  }
}
