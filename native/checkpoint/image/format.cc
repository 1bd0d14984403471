#include "checkpoint/image/format.h"

#define XXH_STATIC_LINKING_ONLY  // for a hash state on the stack
#include "base/xxh3.h"

namespace ckptfs::format {

uint64_t checksumOf(std::span<const std::byte> bytes) noexcept {
  return XXH3_64bits(bytes.data(), bytes.size());
}

uint64_t checksumOf(std::initializer_list<std::span<const std::byte>> pieces) noexcept {
  XXH3_state_t state;
  XXH3_64bits_reset(&state);
  for (const auto piece : pieces) XXH3_64bits_update(&state, piece.data(), piece.size());
  return XXH3_64bits_digest(&state);
}

bool isZero(std::span<const std::byte> bytes) noexcept {
  if (bytes.empty()) return true;
  // Equal to itself shifted by one byte, and starting with zero.
  return bytes[0] == std::byte{0} &&
         std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) == 0;
}

}  // namespace ckptfs::format
