#include "devices/guest_ram.h"

#include "memory/guest_memory.h"

namespace ckptfs {

bool GuestRam::contains(uint64_t address, uint64_t length) const noexcept {
  const uint64_t bytes = memory_->bytes();
  return address >= base_ && address - base_ <= bytes && length <= bytes - (address - base_);
}

std::span<const std::byte> GuestRam::readable(uint64_t address, uint64_t length) const noexcept {
  if (!contains(address, length)) return {};
  const uint64_t offset = address - base_;
  if (!memory_->prepareRead(offset, length)) return {};
  return {memory_->hostView() + offset, length};
}

std::span<std::byte> GuestRam::writable(uint64_t address, uint64_t length) const noexcept {
  if (!contains(address, length)) return {};
  const uint64_t offset = address - base_;
  if (!memory_->prepareWrite(offset, length)) return {};
  return {memory_->hostView() + offset, length};
}

}  // namespace ckptfs
