// Random access to bytes that somebody else keeps: guest memory, a checkpoint's memory, a disk.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

namespace ckptfs {

/** Bytes that are alike: stored, or a hole, which reads as zeros. */
struct ByteRun {
  uint64_t bytes;  // at least 1
  bool hole;
};

/** `read` fills the whole span from `offset`; the caller stays within the size. `write` and `flush`
 * (what was written is durable) are there only where something can be written. All may be called
 * from several threads at once, throw Error, and keep alive what they work on. */
struct ByteSource {
  uint64_t bytes = 0;
  std::function<void(uint64_t offset, std::span<std::byte> into)> read;
  std::function<void(uint64_t offset, std::span<const std::byte> from)> write = {};
  std::function<void()> flush = {};
  /** The range reads as zeros afterwards, its space freed where that is possible. Where it can be
   * written, if at all. */
  std::function<void(uint64_t offset, uint64_t length)> zero = {};
  /** Where it can tell: the run that `offset`, within the size, lies in, from there on. */
  std::function<ByteRun(uint64_t offset)> run = {};
  /** Where it can change: the size now. */
  std::function<uint64_t()> bytesNow = {};

  uint64_t size() const { return bytesNow ? bytesNow() : bytes; }
};

}  // namespace ckptfs
