// The blocks whose bodies lie in each IO block, aliases among them: memory.map turned around.
//
// Immutable after construction; safe from any thread.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "checkpoint/image/memory_map.h"

namespace ckptfs {

class IoBlockIndex {
 public:
  /** Two passes over the block table; 4 bytes per block and per IO block. */
  explicit IoBlockIndex(const MemoryMap& map)
      : ends_(map.ioBlocks.size() + 1), blocks_(map.blocks.size()) {
    static_assert(format::kMaxBlocks <= UINT32_MAX);
    for (const format::MapBlock& row : map.blocks)
      if (row.codec != format::Codec::zero) ++ends_[row.ioBlock + 1];
    for (size_t i = 1; i < ends_.size(); ++i) ends_[i] += ends_[i - 1];
    // ends_[i] is the start of IO block i, and moves to its end as its blocks are put in.
    for (uint32_t block = 0; block < map.blocks.size(); ++block)
      if (map.blocks[block].codec != format::Codec::zero)
        blocks_[ends_[map.blocks[block].ioBlock]++] = block;
  }

  /** By block id. */
  std::span<const uint32_t> blocksOf(uint32_t ioBlock) const noexcept {
    const uint32_t start = ioBlock == 0 ? 0 : ends_[ioBlock - 1];
    return {blocks_.data() + start, ends_[ioBlock] - start};
  }

 private:
  std::vector<uint32_t> ends_;
  std::vector<uint32_t> blocks_;
};

}  // namespace ckptfs
