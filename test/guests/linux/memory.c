// The memory workload of the benchmarks. It fills ckptfs.mib=N (64) MiB of anonymous memory and
// then does what lines on the console ask for:
//
//   random MIB   writes words at random places of the first MIB of it, for ever
//   zipf MIB     the same, but pages are chosen by a Zipf distribution with s = 0.99
//   touch N      stops, writes one word in each of N stretches of 32 KiB, and prints "touched N"
//   stop         waits for the next line
//
// The lower half of every page holds random words, and only that is written; the upper half holds
// the same word again and again, as much of real memory does: a page compresses to about one half.
//
// The host reads the progress from the guest's RAM: struct Progress, one step for each word
// written. Its physical address stands in the line "memory mib=N progress=ADDRESS", printed after
// the fill.
#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "guest.h"

enum {
  PAGE_BYTES = 4096,
  PAGE_WORDS = PAGE_BYTES / 8,
  WRITTEN_WORDS = PAGE_WORDS / 2,
  STRETCH_PAGES = 8,
  // Steps between two looks at the console: a millisecond or so.
  BATCH_STEPS = 8192,
  // The inverse distribution is a line between two neighbours of 2^ZIPF_BITS + 1 points.
  ZIPF_BITS = 12,
};

static const double kZipfExponent = 0.99;
static const uint64_t kProgressMagic = 0x7373657267c0ffeeu;

struct Progress {
  uint64_t magic;
  uint64_t steps;
};
static volatile struct Progress progress __attribute__((aligned(4096)));

enum Pattern { kIdle, kRandom, kZipf };

static uint64_t* words;
static uint64_t pages;
static uint64_t random64 = 0x9e3779b97f4a7c15u;
// Ranks of pages in fixed point, 32 bits of fraction, by share of all accesses.
static uint64_t zipfRank[(1 << ZIPF_BITS) + 1];

static inline uint64_t nextRandom(void) {
  random64 ^= random64 << 13;
  random64 ^= random64 >> 7;
  return random64 ^= random64 << 17;
}

// The upper half of x as a number below `count` < 2^32.
static inline uint64_t below(uint64_t x, uint64_t count) {
  return (x >> 32) * count >> 32;
}

static void fill(void) {
  for (uint64_t page = 0; page < pages; page++) {
    uint64_t* at = words + page * PAGE_WORDS;
    for (int i = 0; i < WRITTEN_WORDS; i++) at[i] = nextRandom();
    for (int i = WRITTEN_WORDS; i < PAGE_WORDS; i++) at[i] = page + 1;
  }
}

// Density x^-s on [1, count + 1]: its inverse distribution function is a power of the share.
static void prepareZipf(uint64_t count) {
  double power = 1 - kZipfExponent;
  double range = pow((double)count + 1, power) - 1;
  for (int i = 0; i <= 1 << ZIPF_BITS; i++) {
    double share = (double)i / (1 << ZIPF_BITS);
    zipfRank[i] = (uint64_t)((pow(1 + share * range, 1 / power) - 1) * 4294967296.0);
  }
}

static uint64_t zipfPage(uint64_t x, uint64_t count) {
  uint64_t i = x >> (64 - ZIPF_BITS);
  uint64_t fraction = x >> (32 - ZIPF_BITS) & 0xffffffffu;
  uint64_t rank = (zipfRank[i] + ((zipfRank[i + 1] - zipfRank[i]) >> 16) * (fraction >> 16)) >> 32;
  if (rank >= count) rank = count - 1;
  // Popular pages lie anywhere: a prime that is larger than any count permutes them.
  return rank * 2654435761u % count;
}

static void runBatch(enum Pattern pattern, uint64_t count) {
  uint64_t steps = progress.steps;
  for (int i = 0; i < BATCH_STEPS; i++) {
    uint64_t x = nextRandom();
    uint64_t page = pattern == kZipf ? zipfPage(x, count) : below(x, count);
    words[page * PAGE_WORDS + (x & (WRITTEN_WORDS - 1))] = x;
    progress.steps = ++steps;
  }
}

static void touch(uint64_t stretches) {
  uint64_t all = pages / STRETCH_PAGES;
  if (stretches > all) stretches = all;
  for (uint64_t i = 0; i < stretches; i++) {
    uint64_t stretch = i * all / stretches;
    words[stretch * STRETCH_PAGES * PAGE_WORDS] = nextRandom();
    progress.steps++;
  }
  say("touched %llu", (unsigned long long)stretches);
}

// Physical address of a page that is in memory and stays there: 0 when the kernel does not tell.
static uint64_t physicalAddress(const volatile void* page) {
  int file = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  uint64_t entry = 0;
  off_t at = (off_t)((uintptr_t)page / PAGE_BYTES * sizeof entry);
  if (file < 0 || pread(file, &entry, sizeof entry, at) != sizeof entry) say("FAIL pagemap: %m");
  close(file);
  return (entry & ((1ull << 55) - 1)) * PAGE_BYTES;
}

// Locked pages are moved by compaction unless it is told not to.
static void keepInPlace(void) {
  int file = open("/proc/sys/vm/compact_unevictable_allowed", O_WRONLY | O_CLOEXEC);
  if (file >= 0 && write(file, "0", 1) != 1) say("compaction: %m");
  close(file);
  mlock((const void*)&progress, sizeof progress);
}

int runMemory(void) {
  pages = option("mib", 64) * ((1 << 20) / PAGE_BYTES);
  words = mmap(NULL, pages * PAGE_BYTES, PROT_READ | PROT_WRITE,
               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (words == MAP_FAILED) {
    say("FAIL memory: %m");
    return 1;
  }
  fill();
  progress.magic = kProgressMagic;
  keepInPlace();
  say("memory mib=%llu progress=%llx", (unsigned long long)(pages * PAGE_BYTES >> 20),
      (unsigned long long)(physicalAddress(&progress) + (uintptr_t)&progress % PAGE_BYTES));

  enum Pattern pattern = kIdle;
  uint64_t count = pages;
  for (;;) {
    struct pollfd console = {STDIN_FILENO, POLLIN, 0};
    if (poll(&console, 1, pattern == kIdle ? -1 : 0) > 0) {
      char line[64] = "";
      if (read(STDIN_FILENO, line, sizeof line - 1) <= 0) return 1;
      const char* argument = strchr(line, ' ');
      uint64_t number = argument ? strtoull(argument, NULL, 10) : 0;
      pattern = kIdle;
      if (strncmp(line, "touch", 5) == 0) {
        touch(number);
      } else if (strncmp(line, "stop", 4) == 0) {
        say("stopped");
      } else {
        count = number * ((1 << 20) / PAGE_BYTES);
        if (count == 0 || count > pages) count = pages;
        prepareZipf(count);
        pattern = strncmp(line, "zipf", 4) == 0 ? kZipf : kRandom;
        say("writing");
      }
    }
    if (pattern != kIdle) runBatch(pattern, count);
  }
}
