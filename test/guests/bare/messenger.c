// Passes numbered messages: every `period=` (10,000) ticks it sends the next number on the console,
// "m7 7", and takes in what has come from another. What it takes in must be newer each time, or it
// ends with FAIL. It goes on for ever, and writes at random in `mib=` (2) MiB meanwhile, `writes=`
// (64) times a tick.
//
// A number counts as sent before its first byte leaves, and as received after its last byte has
// come. A message that is not whole, as bytes were lost on the way, is none. To "?" it answers with
// both counts, anywhere.
#include "bare.h"

static volatile uint8_t* const kUart = (volatile uint8_t*)0x10000000;
enum { kReceive = 0, kLineStatus = 5, kDataReady = 1, kLineBytes = 48 };

static uint64_t sent, received;

static void tell(void) {
  print("\nckptfs-bare: sent ");
  printNumber(sent);
  print(" received ");
  printNumber(received);
  print("\n");
}

// The number at `text` and what follows it; 0 digits are no number.
static const char* number(const char* text, uint64_t* value) {
  const char* at = text;
  for (*value = 0; *at >= '0' && *at <= '9'; at++) *value = *value * 10 + (uint64_t)(*at - '0');
  return at == text ? 0 : at;
}

static void take(const char* line) {
  uint64_t one, other;
  if (!(line = number(line, &one)) || *line++ != ' ') return;
  if (!(line = number(line, &other)) || *line || one != other) return;
  if (one <= received) fail("a message came that had come before", one);
  received = one;
}

// Each message begins with an m, whatever became of the one before.
static void receive(void) {
  static char line[kLineBytes];
  static uint64_t length = kLineBytes;  // kLineBytes: outside of a message
  while (kUart[kLineStatus] & kDataReady) {
    char byte = (char)kUart[kReceive];
    if (byte == '?') {
      tell();
    } else if (byte == 'm') {
      length = 0;
    } else if (byte == '\n' && length < kLineBytes) {
      line[length] = 0;
      length = kLineBytes;
      take(line);
    } else if (length < kLineBytes - 1) {
      line[length++] = byte;
    } else {
      length = kLineBytes;
    }
  }
}

static void send(void) {
  sent++;
  status.hart[0].counter = sent;
  print("m");
  printNumber(sent);
  print(" ");
  printNumber(sent);
  print("\n");
}

void bareMain(uint64_t hart) {
  (void)hart;
  uint64_t writes = argument("writes=", 64);
  uint64_t words = (argument("mib=", 2) << 20) / sizeof(uint64_t);
  uint64_t* memory = (uint64_t*)freeRam();
  if (freeRam() + words * sizeof *memory > kRamStart + ramBytes())
    fail("too little memory", ramBytes());
  print("ckptfs-bare: messenger\n");
  startTicks(argument("period=", 10000));
  for (uint64_t x = 88172645463325252u;;) {
    for (uint64_t i = 0; i < writes; i++) {
      x = xorshift(x);
      memory[x % words] = x;
    }
    receive();
    send();
    waitForTick();
  }
}
