// In which order background threads save what no vCPU thread has saved yet (requirements B4, B9).
//
// Live: the blocks least likely to be accessed first, that is those without an accessed bit, then
// the others; within each by address. Suspended: nobody will access anything before the restore, so
// the accessed ones go first, into the hot segment. Blocks that still receive the data of disk
// reads are left out.
//
// next() from any thread.
#pragma once

#include <cstdint>
#include <mutex>
#include <span>
#include <vector>

#include "checkpoint/image/format.h"
#include "checkpoint/save/late_contents.h"
#include "memory/guest_memory.h"

namespace ckptfs {

class SaveWalk {
 public:
  /** `accessed`: one byte per block, or empty; `traced` likewise, constant from start() on. */
  SaveWalk(const GuestMemory& memory, std::span<const uint8_t> traced,
           std::vector<uint8_t> accessed, bool suspend);

  /** After the pause, before next(). `late` may be null. */
  void start(const LateContents* late);
  /** Blocks to be saved that start() found to await their contents, by id. */
  const std::vector<BlockId>& late() const noexcept { return late_; }

  struct Step {
    BlockRange run;  // count 0: the walk is over
    bool hole;       // memory has no pages there, and had none in the pause: all zeros
    format::SegmentKind segment;
  };
  /** The next run of traced blocks: at most `room` of them, or many more in a hole. */
  Step next(uint64_t room) noexcept;

 private:
  static constexpr int kPasses = 2;
  bool inPass(BlockId block) const noexcept;
  bool isHole(BlockId block) noexcept;

  const GuestMemory& memory_;
  const std::span<const uint8_t> traced_;
  const bool suspend_;
  std::vector<BlockId> late_;

  std::mutex lock_;             // guards the rest
  std::vector<uint8_t> order_;  // per block: the pass that it belongs to, kPasses for none
  int pass_ = 0;
  BlockId at_ = 0;
  // What is known of the memory's pages around at_: one hole or one stretch of pages.
  BlockRange extent_;
  bool extentIsHole_ = false;
};

}  // namespace ckptfs
