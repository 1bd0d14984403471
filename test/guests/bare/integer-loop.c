// An integer benchmark: table-driven CRC-32 of 4 KiB, `rounds=` (20,000) times: loads, shifts,
// masks, xor and branches, all in L1. Prints instructions and ticks of 100 ns, and powers off;
// fails when the checksum is wrong.
#include "bare.h"

static uint32_t table[256];
static uint8_t data[4096];

void bareMain(uint64_t hart) {
  (void)hart;
  uint64_t rounds = argument("rounds=", 20000);
  for (uint32_t i = 0; i < 256; i++) {
    uint32_t value = i;
    for (int bit = 0; bit < 8; bit++) value = value >> 1 ^ (0xedb88320u & -(value & 1));
    table[i] = value;
  }
  // CRC-32 of "123456789" is the check value that its definition publishes.
  uint32_t known = ~0u;
  for (const char* at = "123456789"; *at; at++)
    known = known >> 8 ^ table[(known ^ (uint8_t)*at) & 255];
  if (~known != 0xcbf43926u) fail("CRC-32 is wrong", ~known);
  for (uint32_t i = 0; i < sizeof data; i++) data[i] = (uint8_t)(i * 7);

  uint64_t ticks = readTime();
  uint64_t instructions = readInstructions();
  uint32_t crc = ~0u;
  for (uint64_t round = 0; round < rounds; round++) {
    for (uint32_t i = 0; i < sizeof data; i++) crc = crc >> 8 ^ table[(crc ^ data[i]) & 255];
  }
  instructions = readInstructions() - instructions;
  ticks = readTime() - ticks;
  print("ckptfs-bare: integer-loop instructions=");
  printNumber(instructions);
  print(" ticks=");
  printNumber(ticks);
  print(" crc=");
  printHex(~crc);
  print("\n");
  powerOff(0);
}
