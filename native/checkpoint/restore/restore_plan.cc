#include "checkpoint/restore/restore_plan.h"

#include <algorithm>

namespace ckptfs {

using namespace format;

namespace {
// Zero blocks are settled in ranges of so many blocks, between which a thread looks whether it is
// to stop.
constexpr uint64_t kZeroRange = 4096;
}  // namespace

RestorePlan::RestorePlan(const MemoryMap& map, const NeedOrder& learnt)
    : index_(map),
      blockCount_(map.blocks.size()),
      zeroSteps_((blockCount_ + kZeroRange - 1) / kZeroRange) {
  std::vector<bool> planned(map.ioBlocks.size());
  ioBlocks_.reserve(map.ioBlocks.size());
  const auto plan = [&](uint32_t ioBlock) {
    if (planned[ioBlock]) return;
    planned[ioBlock] = true;
    ioBlocks_.push_back(ioBlock);
  };
  for (const uint32_t block : learnt)
    if (map.blocks[block].codec != Codec::zero) plan(map.blocks[block].ioBlock);
  // The table is in the order of the segments, and these have the newest first.
  for (uint32_t io = 0; io < map.ioBlocks.size(); ++io)
    if (map.segments[map.ioBlocks[io].segment].kind == SegmentKind::hot) plan(io);
  beforeZeros_ = ioBlocks_.size();
  for (uint32_t io = 0; io < map.ioBlocks.size(); ++io) plan(io);
}

bool RestorePlan::next(Step& step) noexcept {
  uint64_t n = taken_.fetch_add(1, std::memory_order_relaxed);
  if (n >= beforeZeros_ && n < beforeZeros_ + zeroSteps_) {
    const uint64_t first = (n - beforeZeros_) * kZeroRange;
    step = {true, 0, {first, std::min(kZeroRange, blockCount_ - first)}};
    return true;
  }
  if (n >= beforeZeros_) n -= zeroSteps_;
  if (n >= ioBlocks_.size()) return false;
  step = {false, ioBlocks_[n], {}};
  return true;
}

}  // namespace ckptfs
