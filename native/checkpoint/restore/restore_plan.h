// In which order background threads load a checkpoint (requirements C5, F3), and which memory
// blocks each of its IO blocks is for.
//
// First what guests needed in earlier restores, in that order; then the hot segments, the newest
// first; the zero blocks; the cold segments. An IO block is for all blocks whose rows lie in it:
// its own entries would miss aliases, and name blocks that a newer IO block has replaced.
// Constant once made, but for the place that next() has reached; any thread.
#pragma once

#include <atomic>
#include <span>
#include <vector>

#include "checkpoint/image/io_block_index.h"
#include "checkpoint/image/memory_map.h"
#include "checkpoint/image/order_file.h"

namespace ckptfs {

class RestorePlan {
 public:
  /** `learnt`: block ids of this map. Takes some milliseconds for 8 GiB. */
  RestorePlan(const MemoryMap& map, const NeedOrder& learnt);

  /** A step: an IO block to load, or a range of blocks of which the zero ones are to be settled. */
  struct Step {
    bool isZeros = false;
    uint32_t ioBlock = 0;
    BlockRange range;
  };
  /** The next step that no thread has taken; false: there is none. */
  bool next(Step& step) noexcept;
  /** Begins again at the first step. */
  void rewind() noexcept { taken_ = 0; }

  /** The blocks whose contents lie in an IO block, by block id. */
  std::span<const uint32_t> blocksOf(uint32_t ioBlock) const noexcept {
    return index_.blocksOf(ioBlock);
  }
  /** All IO blocks in the order of loading. */
  std::span<const uint32_t> ioBlocks() const noexcept { return ioBlocks_; }

 private:
  const IoBlockIndex index_;
  const uint64_t blockCount_;
  std::vector<uint32_t> ioBlocks_;
  uint64_t beforeZeros_ = 0;  // so many of them come before the zero blocks
  uint64_t zeroSteps_ = 0;
  std::atomic<uint64_t> taken_{0};
};

}  // namespace ckptfs
