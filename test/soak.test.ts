/** Two minutes of the soak; `npm run soak -- --minutes 60` is the long one. */
import t from 'tap';
import { soak, totalsLine } from './support/soak.js';
import { temporaryStore } from './support/guests.js';

const suiteLimitMs = 900_000;
t.setTimeout(suiteLimitMs);

t.test('checkpoints, restores and verification under load', async (t) => {
  const { store, remove } = await temporaryStore();
  t.teardown(remove);
  const say = (line: string): void => t.comment(line);
  const totals = await soak(store, { minutes: 2, seed: 1, limitBytes: 4 * 2 ** 30, say });
  t.comment(totalsLine(totals));
  t.ok(totals.checkpoints > 0, 'checkpoints were taken');
  t.ok(totals.lazyRestores > 0 && totals.eagerRestores > 0, 'and restored in both ways');
  t.ok(totals.comparedWithPause > 0, 'some were compared with their pause');
  t.ok(totals.runsToTheEnd > 0, 'the Linux guest came to the right end');
  t.ok(totals.verified > 0, 'what is left verifies');
});
