// Writes words at pseudo-random places for ever, on `harts=` (1) harts, over the first `mib=` (all)
// MiB of free RAM, at full speed or at `rate=` writes a second on each hart. The counters of the
// status page tell how many writes each hart has made, which is the guest's progress.
#include "bare.h"

void bareMain(uint64_t hart) {
  uint64_t harts = argument("harts=", 1);
  uint64_t rate = argument("rate=", 0);
  uint64_t available = kRamStart + ramBytes() - freeRam();
  uint64_t bytes = argument("mib=", available >> 20) << 20;
  if (bytes == 0 || bytes > available) fail("mib= does not fit in RAM", bytes);
  if (hart == 0) {
    startHarts(harts);
    print("ckptfs-bare: random-writer harts=");
    printNumber(harts);
    print(" mib=");
    printNumber(bytes >> 20);
    print("\n");
  }

  volatile uint64_t* words = (volatile uint64_t*)freeRam();
  uint64_t count = bytes / sizeof *words;
  uint64_t x = 0x9e3779b97f4a7c15u * (hart + 1);
  uint64_t began = readTime();
  for (uint64_t writes = 0;;) {
    x = xorshift(x);
    // Maps the upper half of x to [0, count) with a multiplication, which is cheaper than a
    // remainder (https://lemire.me/blog/2016/06/27/a-fast-alternative-to-the-modulo-reduction/).
    // count < 2^32.
    words[(x >> 32) * count >> 32] = x;
    status.hart[hart].counter = ++writes;
    while (rate && (readTime() - began) * rate < writes * kTicksPerSecond) {
    }
  }
}
