// A deterministic computation that checks itself: `harts=` (1) harts make `steps=` (2,000,000)
// steps each over `kib=` (1024) KiB of memory of their own, with 16 checks on the way. It ends with
// the same sum whether or not it was interrupted, or with FAIL.
//
// A step changes one word at a pseudo-random place, and keeps beside it what must then hold: the
// sum of all words (a check adds them up anew), the same count in a double, and one counter for all
// harts by AMO. Each check also waits for a timer tick, so a lost timer stops the guest.
#include "bare.h"

enum { kChecks = 16 };

static uint64_t sharedSteps;
static uint64_t sums[kMaxHarts];

static uint64_t sumOf(const uint64_t* words, uint64_t count) {
  uint64_t sum = 0;
  for (uint64_t i = 0; i < count; i++) sum += words[i];
  return sum;
}

static void check(uint64_t hart, uint64_t mark, const uint64_t* words, uint64_t count, uint64_t sum,
                  uint64_t steps, double floating) {
  uint64_t found = sumOf(words, count);
  if (found != sum) fail("memory differs from its sum by", found - sum);
  if (floating != (double)steps * 0.5) fail("floating point went wrong at step", steps);
  if (__atomic_load_n(&sharedSteps, __ATOMIC_RELAXED) < steps)
    fail("shared counter fell behind", steps);
  waitForTick();
  lockConsole();
  print("ckptfs-bare: hart ");
  printNumber(hart);
  print(" mark ");
  printNumber(mark);
  print("\n");
  unlockConsole();
}

void bareMain(uint64_t hart) {
  uint64_t harts = argument("harts=", 1);
  uint64_t steps = argument("steps=", 2000000);
  uint64_t bytes = argument("kib=", 1024) << 10;
  if (freeRam() + harts * bytes > kRamStart + ramBytes()) fail("too little memory", ramBytes());
  if (bytes == 0 || steps < kChecks) fail("kib= or steps= is too small", steps);
  if (hart == 0) startHarts(harts);
  startTicks(kTicksPerSecond / 100);

  uint64_t* words = (uint64_t*)(freeRam() + hart * bytes);
  uint64_t count = bytes / sizeof *words;
  uint64_t x = 0x9e3779b97f4a7c15u * (hart + 1);
  uint64_t sum = 0;
  double floating = 0;
  for (uint64_t i = 0; i < count; i++) sum += words[i] = x = xorshift(x);

  uint64_t nextCheck = steps / kChecks;
  uint64_t mark = 0;
  for (uint64_t step = 1; step <= steps; step++) {
    x = xorshift(x);
    uint64_t* word = words + x % count;
    uint64_t changed = *word * 6364136223846793005u + x;
    sum += changed - *word;
    *word = changed;
    floating += 0.5;
    __atomic_fetch_add(&sharedSteps, 1, __ATOMIC_RELAXED);
    status.hart[hart].counter = step;
    if (step == nextCheck && step < steps) {
      check(hart, ++mark, words, count, sum, step, floating);
      nextCheck += steps / kChecks;
    }
  }
  check(hart, ++mark, words, count, sum, steps, floating);
  // The order of the words counts in the final sum.
  uint64_t digest = hart;
  for (uint64_t i = 0; i < count; i++) digest = digest * 0x100000001b3u + words[i];
  sums[hart] = digest;
  barrier(harts);
  if (hart != 0) {
    for (;;) waitForTick();
  }
  if (sharedSteps != harts * steps) fail("shared counter is wrong", sharedSteps);
  uint64_t all = 0;
  for (uint64_t i = 0; i < harts; i++) all = all * 0x100000001b3u + sums[i];
  lockConsole();
  print("ckptfs-bare: PASS sum=");
  printHex(all);
  print("\n");
  powerOff(0);
}
