// The runtime behind bare.h. Console: the 16550 UART at 0x10000000, polled. SBI: TIME, HSM, SRST.
#include "bare.h"

volatile struct StatusPage status __attribute__((section(".status"), aligned(4096)));

static volatile uint8_t* const kUart = (volatile uint8_t*)0x10000000;
enum { kTransmit = 0, kLineStatus = 5, kTransmitEmpty = 0x20 };
enum { kSbiTime = 0x54494d45, kSbiHsm = 0x48534d, kSbiSrst = 0x53525354 };
enum { kSieTimer = 1 << 5, kSstatusSie = 1 << 1 };

static char bootArguments[1024];  // A copy: guests use all of RAM, the device tree's too.
static uint64_t ramSize = 16 << 20;
static uint64_t bootHart;
static uint64_t tickPeriod;
static int consoleLock;

extern char _end[];
extern void _start_other(void);

// Hart numbers are the guest's own: 0 is whichever hart booted.
static uint64_t hartNumber(uint64_t id) {
  return id == bootHart ? 0 : id < bootHart ? id + 1 : id;
}
static uint64_t hartId(uint64_t number) {
  return number == 0 ? bootHart : number <= bootHart ? number - 1 : number;
}
static uint64_t thisHart(void) {
  uint64_t id;
  __asm__("mv %0, tp" : "=r"(id));
  return hartNumber(id);
}

static int64_t sbi(uint64_t extension, uint64_t function, uint64_t x, uint64_t y, uint64_t z) {
  register uint64_t a0 __asm__("a0") = x;
  register uint64_t a1 __asm__("a1") = y;
  register uint64_t a2 __asm__("a2") = z;
  register uint64_t a6 __asm__("a6") = function;
  register uint64_t a7 __asm__("a7") = extension;
  __asm__ volatile("ecall" : "+r"(a0), "+r"(a1) : "r"(a2), "r"(a6), "r"(a7) : "memory");
  return (int64_t)a0;
}

// --- console ---

void lockConsole(void) {
  while (__atomic_exchange_n(&consoleLock, 1, __ATOMIC_ACQUIRE)) {
  }
}
void unlockConsole(void) {
  __atomic_store_n(&consoleLock, 0, __ATOMIC_RELEASE);
}

void print(const char* text) {
  for (; *text; text++) {
    while (!(kUart[kLineStatus] & kTransmitEmpty)) {
    }
    kUart[kTransmit] = (uint8_t)*text;
  }
}

static void printBase(uint64_t value, uint64_t base) {
  char text[21];
  char* at = text + sizeof text;
  *--at = 0;
  do {
    *--at = "0123456789abcdef"[value % base];
    value /= base;
  } while (value);
  print(at);
}
void printNumber(uint64_t value) {
  printBase(value, 10);
}
void printHex(uint64_t value) {
  printBase(value, 16);
}

void powerOff(uint64_t reason) {
  sbi(kSbiSrst, 0, 0, reason, 0);
  for (;;) __asm__ volatile("wfi");
}

void fail(const char* why, uint64_t value) {
  lockConsole();
  print("ckptfs-bare: FAIL ");
  print(why);
  print(" 0x");
  printHex(value);
  print("\n");
  powerOff(1);
}

// --- time ---

uint64_t readTime(void) {
  uint64_t value;
  __asm__ volatile("rdtime %0" : "=r"(value));
  return value;
}
uint64_t readInstructions(void) {
  uint64_t value;
  __asm__ volatile("rdinstret %0" : "=r"(value));
  return value;
}

// The only trap that is expected is the timer's.
__attribute__((interrupt("supervisor"), aligned(4), used)) void trap(void) {
  uint64_t cause;
  __asm__ volatile("csrr %0, scause" : "=r"(cause));
  if (cause != (1ull << 63 | 5)) {
    uint64_t pc;
    __asm__ volatile("csrr %0, sepc" : "=r"(pc));
    print("ckptfs-bare: trap at 0x");
    printHex(pc);
    print("\n");
    fail("unexpected trap", cause);
  }
  status.hart[thisHart()].ticks++;
  sbi(kSbiTime, 0, readTime() + tickPeriod, 0, 0);
}

void startTicks(uint64_t period) {
  tickPeriod = period;
  sbi(kSbiTime, 0, readTime() + period, 0, 0);
  __asm__ volatile("csrs sie, %0" ::"r"(kSieTimer));
  __asm__ volatile("csrs sstatus, %0" ::"r"(kSstatusSie));
}

// With interrupts off between the look and the WFI, no tick is missed: WFI wakes for a pending
// interrupt whether or not it is enabled, which is then taken when they are turned on.
void waitForTick(void) {
  uint64_t hart = thisHart();
  uint64_t before = status.hart[hart].ticks;
  for (;;) {
    __asm__ volatile("csrc sstatus, %0" ::"r"(kSstatusSie));
    if (status.hart[hart].ticks != before) break;
    __asm__ volatile("wfi");
    __asm__ volatile("csrs sstatus, %0" ::"r"(kSstatusSie));
  }
  __asm__ volatile("csrs sstatus, %0" ::"r"(kSstatusSie));
}

// --- harts ---

void startHarts(uint64_t harts) {
  if (harts > kMaxHarts) fail("too many harts", harts);
  for (uint64_t number = 1; number < harts; number++) {
    int64_t error = sbi(kSbiHsm, 0, hartId(number), (uint64_t)(uintptr_t)_start_other, 0);
    if (error) fail("hart does not start", (uint64_t)error);
  }
}

void barrier(uint64_t harts) {
  static uint64_t arrived, generation;
  uint64_t mine = __atomic_load_n(&generation, __ATOMIC_ACQUIRE);
  if (__atomic_add_fetch(&arrived, 1, __ATOMIC_ACQ_REL) == harts) {
    __atomic_store_n(&arrived, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&generation, mine + 1, __ATOMIC_RELEASE);
    return;
  }
  while (__atomic_load_n(&generation, __ATOMIC_ACQUIRE) == mine) {
  }
}

// --- device tree: /memory's size and /chosen's bootargs (Devicetree Specification 0.4, chapter 5)
// ---

static uint32_t bigEndian(const uint32_t* at) {
  const uint8_t* byte = (const uint8_t*)at;
  return (uint32_t)byte[0] << 24 | (uint32_t)byte[1] << 16 | (uint32_t)byte[2] << 8 | byte[3];
}

static int startsWith(const char* text, const char* prefix) {
  while (*prefix) {
    if (*text++ != *prefix++) return 0;
  }
  return 1;
}

static void readDeviceTree(const uint32_t* tree) {
  enum { kMagic = 0xd00dfeed, kBeginNode = 1, kEndNode = 2, kProperty = 3, kNop = 4 };
  if (!tree || bigEndian(tree) != kMagic) return;
  const uint32_t* at = tree + bigEndian(tree + 2) / 4;
  const char* names = (const char*)tree + bigEndian(tree + 3);
  const char* node = "";
  for (;;) {
    uint32_t token = bigEndian(at++);
    if (token == kBeginNode) {
      node = (const char*)at;
      const char* end = node;
      while (*end) end++;
      at += (end - node) / 4 + 1;
    } else if (token == kProperty) {
      uint32_t length = bigEndian(at);
      const char* name = names + bigEndian(at + 1);
      at += 2;
      if (startsWith(node, "memory@") && startsWith(name, "reg") && length == 16) {
        ramSize = (uint64_t)bigEndian(at + 2) << 32 | bigEndian(at + 3);
      }
      if (startsWith(name, "bootargs") && length <= sizeof bootArguments) {
        for (uint32_t i = 0; i < length; i++) bootArguments[i] = ((const char*)at)[i];
      }
      at += (length + 3) / 4;
    } else if (token != kEndNode && token != kNop) {
      return;
    }
  }
}

uint64_t ramBytes(void) {
  return ramSize;
}
uintptr_t freeRam(void) {
  return (uintptr_t)_end;
}

uint64_t argument(const char* name, uint64_t otherwise) {
  for (const char* at = bootArguments; *at; at++) {
    if ((at != bootArguments && at[-1] != ' ') || !startsWith(at, name)) continue;
    while (*at++ != '=') {
    }
    uint64_t value = 0;
    for (; *at >= '0' && *at <= '9'; at++) value = value * 10 + (uint64_t)(*at - '0');
    return value;
  }
  return otherwise;
}

// --- entries from start.S ---

void bareBoot(uint64_t id, const uint32_t* tree) {
  bootHart = id;
  readDeviceTree(tree);
  bareMain(0);
}
void bareOther(uint64_t id) {
  bareMain(hartNumber(id));
}
