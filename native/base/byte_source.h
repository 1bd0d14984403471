// Random access to bytes that somebody else keeps: guest memory, a checkpoint's memory, a disk.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

namespace ckptfs {

/** `read` fills the whole span from `offset`; the caller stays within `bytes`. It may be called
 * from several threads at once, throws Error, and keeps alive what it reads from. */
struct ByteSource {
  uint64_t bytes = 0;
  std::function<void(uint64_t offset, std::span<std::byte> into)> read;
};

}  // namespace ckptfs
