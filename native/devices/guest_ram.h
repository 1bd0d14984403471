// Guest RAM as a virtual device sees it: guest-physical addresses, checked, in the host view.
//
// Every access goes through GuestMemory::prepareRead or prepareWrite first, which loads blocks that
// are absent and saves blocks that are traced (requirement A9). What was prepared stays usable
// until traces are armed the next time. The devices are drained then, or stopped with disk requests
// in flight; what these still write at that moment, a checkpoint does not rely on before they are
// returned, except for the data of reads, which the saver waits for (requirement A11).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace ckptfs {

class GuestMemory;

class GuestRam {
 public:
  /** RAM stands at guest-physical address `base`; the memory outlives this object. */
  GuestRam(GuestMemory& memory, uint64_t base) noexcept : memory_(&memory), base_(base) {}

  /** True when all of [address, address + length) is RAM. */
  bool contains(uint64_t address, uint64_t length) const noexcept;
  /** The bytes in the host view. Empty when the range is not RAM, or (which the caller tells apart
   *  by contains()) when its blocks cannot be loaded or saved now; then nothing may be touched. */
  std::span<const std::byte> readable(uint64_t address, uint64_t length) const noexcept;
  std::span<std::byte> writable(uint64_t address, uint64_t length) const noexcept;

 private:
  GuestMemory* memory_;
  uint64_t base_;
};

}  // namespace ckptfs
