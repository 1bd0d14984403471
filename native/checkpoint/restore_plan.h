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

#include "checkpoint/memory_map.h"
#include "checkpoint/order_file.h"

namespace ckptfs {

class RestorePlan {
 public:
  /** `learnt`: block ids of this map. Takes some milliseconds for 8 GiB. */
  RestorePlan(const MemoryMap& map, std::span<const uint32_t> learnt);

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

  /** The blocks whose contents lie in an IO block, in ascending order. */
  std::span<const uint32_t> blocksIn(uint32_t ioBlock) const noexcept {
    return std::span(blocks_).subspan(starts_[ioBlock], starts_[ioBlock + 1] - starts_[ioBlock]);
  }

 private:
  const uint64_t blockCount_;
  std::vector<uint32_t> starts_;    // per IO block, and one more: where in blocks_
  std::vector<uint32_t> blocks_;    // by IO block
  std::vector<uint32_t> ioBlocks_;  // in the order of loading
  uint64_t beforeZeros_ = 0;        // so many of them come before the zero blocks
  uint64_t zeroSteps_ = 0;
  std::atomic<uint64_t> taken_{0};
};

}  // namespace ckptfs
