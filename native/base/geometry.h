// Page, memory block and IO block arithmetic: all of it, so that no other file shifts or divides.
//
// A memory block (pagesPerBlock pages) is the unit of tracing, saving and restoring; an IO block
// (blocksPerIoBlock memory blocks) the unit of reading and writing a segment (requirement B10).
#pragma once

#include <cstdint>

namespace ckptfs {

using BlockId = uint64_t;  // index of a memory block, 0 at the start of guest RAM

/** A run of memory blocks [first, first + count). */
struct BlockRange {
  BlockId first = 0;
  uint64_t count = 0;
  BlockId end() const noexcept { return first + count; }
};

/** Sizes of one guest's blocks. Values are validated by `validate` before first use. */
struct Geometry {
  uint32_t pageBytes = 4096;      // a power of two, at least 4096
  uint32_t pagesPerBlock = 8;     // 1..256
  uint32_t blocksPerIoBlock = 8;  // 1..256

  uint64_t blockBytes() const noexcept { return uint64_t{pageBytes} * pagesPerBlock; }
  uint64_t ioBlockBytes() const noexcept { return blockBytes() * blocksPerIoBlock; }
  /** Number of blocks that cover `bytes`; RAM is always a whole number of blocks. */
  uint64_t blocksIn(uint64_t bytes) const noexcept {
    return (bytes + blockBytes() - 1) / blockBytes();
  }
  BlockId blockOf(uint64_t offset) const noexcept { return offset / blockBytes(); }
  uint64_t offsetOf(BlockId block) const noexcept { return block * blockBytes(); }
  /** Blocks touched by the bytes [offset, offset + length); length 0 touches none. */
  BlockRange covering(uint64_t offset, uint64_t length) const noexcept {
    if (length == 0) return {blockOf(offset), 0};
    const BlockId first = blockOf(offset);
    return {first, blockOf(offset + length - 1) - first + 1};
  }
  bool operator==(const Geometry&) const = default;
};

/** Throws Error(usage) unless the sizes are in range and `memoryBytes` is a whole number of blocks.
 */
void validate(const Geometry& geometry, uint64_t memoryBytes);

}  // namespace ckptfs
