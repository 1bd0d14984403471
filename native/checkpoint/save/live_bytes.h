// Reading guest memory that others may be writing to at the same time.
//
// What comes out may be a mixture of old and new words; the caller finds out, by the block's state,
// whether anybody wrote meanwhile, and then throws it away. Whole words are read atomically, so
// that this is defined behaviour, and in order: the state is read after them.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace ckptfs {

namespace live_bytes_detail {
using Word = uint64_t;
inline Word wordAt(const std::byte* at) noexcept {
  return __atomic_load_n(reinterpret_cast<const Word*>(at), __ATOMIC_ACQUIRE);
}
}  // namespace live_bytes_detail

/** Whether `size` bytes of live memory equal those at `other`; both 8-aligned. */
inline bool liveEquals(const std::byte* live, const std::byte* other, size_t size) noexcept {
  using namespace live_bytes_detail;
  for (size_t at = 0; at < size; at += sizeof(Word)) {
    Word word;
    std::memcpy(&word, other + at, sizeof word);
    if (wordAt(live + at) != word) return false;
  }
  return true;
}

/** Copies `size` bytes of live memory, at any alignment. */
inline void liveCopy(std::byte* into, const std::byte* live, size_t size) noexcept {
  using namespace live_bytes_detail;
  size_t at = 0;
  while (at < size) {
    const size_t within = reinterpret_cast<uintptr_t>(live + at) % sizeof(Word);
    const size_t length = sizeof(Word) - within < size - at ? sizeof(Word) - within : size - at;
    const Word word = wordAt(live + at - within);
    std::memcpy(into + at, reinterpret_cast<const std::byte*>(&word) + within, length);
    at += length;
  }
}

}  // namespace ckptfs
