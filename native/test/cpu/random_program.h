// Deterministic random programs whose results an independent implementation can confirm.
//
// A program is an image for address kBase that any RV64IMAFDC machine can call as a function, in U
// or S mode: it loads registers from its tables, runs its random part, and leaves every register
// and all results in the window [kResults, kResults + kResultBytes). The same seed gives the same
// image everywhere. oracle/regenerate runs the images under qemu-riscv64.
#pragma once

#include <cstdint>
#include <vector>

namespace ckptfs::rv64::test {

struct RandomProgram {
  static constexpr uint64_t kBase = 0x80000000;
  static constexpr uint64_t kImageBytes = 0x20000;
  static constexpr uint64_t kResults = kBase + 0x10800;  // dumped registers, then the data area
  static constexpr uint64_t kResultBytes = kImageBytes - 0x10800;

  std::vector<uint8_t> image;
};

/** Integer, compressed, atomic, load and store instructions, with forward branches. */
RandomProgram integerProgram(uint64_t seed);
/** F and D instructions, each with operands of its own; result and exception flags of each stored.
 */
RandomProgram floatProgram(uint64_t seed);

/** FNV-1a of the results. */
uint64_t hashOf(const uint8_t* results);

}  // namespace ckptfs::rv64::test
