// What every bare-metal guest shares: a status page that the host reads, arguments from the kernel
// command line, a console, further harts, timer ticks and power-off. No libc; S-mode, paging off.
//
// A guest defines bareMain(), which every hart it asks for runs. Progress lines on the console
// start with "ckptfs-bare: ".
#pragma once
#include <stddef.h>
#include <stdint.h>

enum { kMaxHarts = 8, kRamStart = 0x80000000u, kTicksPerSecond = 10000000 };

// At guest-physical 0x80210000. One line of 64 bytes per hart, so that harts do not share one.
struct StatusPage {
  struct {
    uint64_t counter;  // What the guest counts: writes, steps. Only ever grows.
    uint64_t ticks;    // Timer interrupts taken.
    uint64_t reserved[6];
  } hart[kMaxHarts];
};
extern volatile struct StatusPage status;

// Value of `name` ("name=") on the kernel command line, decimal, or `otherwise`.
uint64_t argument(const char* name, uint64_t otherwise);

uint64_t ramBytes(void);  // From the device tree; 16 MiB without one.
uintptr_t freeRam(void);  // First byte after the guest's image, page-aligned.

void print(const char* text);
void printNumber(uint64_t value);
void printHex(uint64_t value);
void lockConsole(void);
void unlockConsole(void);

uint64_t readTime(void);          // Ticks of 100 ns.
uint64_t readInstructions(void);  // Instructions retired by this hart.

// A timer interrupt on this hart every `period` ticks of time, counted in the status page; and a
// sleep (WFI) until the next one.
void startTicks(uint64_t period);
void waitForTick(void);

// Waits until all `harts` have come here. Usable again at once.
void barrier(uint64_t harts);

// SBI SRST shutdown: reason 0 is success, 1 is failure.
__attribute__((noreturn)) void powerOff(uint64_t reason);
// Prints "ckptfs-bare: FAIL `why` `value`" and powers off with reason 1.
__attribute__((noreturn)) void fail(const char* why, uint64_t value);

// Runs bareMain() on harts 0 .. harts-1; the guest calls it from bareMain() of the boot hart.
void startHarts(uint64_t harts);

// The guest itself. `hart` is 0 for the boot hart whatever its hardware number, then 1, 2, ...
void bareMain(uint64_t hart);

static inline uint64_t xorshift(uint64_t x) {
  x ^= x << 13;
  x ^= x >> 7;
  return x ^ x << 17;
}
