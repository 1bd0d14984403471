#include "checkpoint/restore/need_recorder.h"

namespace ckptfs {

using format::Codec;

NeedRecorder::NeedRecorder(const MemoryMap& map)
    : map_(map),
      noted_(std::make_unique<std::atomic<uint8_t>[]>(map.ioBlocks.size())),
      first_(std::make_unique_for_overwrite<uint32_t[]>(map.ioBlocks.size())) {}

void NeedRecorder::note(BlockId block) noexcept {
  if (noted_[map_.blocks[block].ioBlock].exchange(1, std::memory_order_relaxed) == 0)
    first_[count_.fetch_add(1, std::memory_order_relaxed)] = static_cast<uint32_t>(block);
}

NeedOrder NeedRecorder::order(std::span<const uint8_t> accessed, const RestorePlan& plan,
                              const NeedOrder& earlier) const {
  NeedOrder order;
  std::vector<bool> taken(map_.ioBlocks.size());
  const auto take = [&](uint32_t block) {
    const uint32_t ioBlock = map_.blocks[block].ioBlock;
    if (map_.blocks[block].codec == Codec::zero || taken[ioBlock]) return;
    taken[ioBlock] = true;
    order.push_back(block);
  };
  for (uint32_t i = 0; i < count_; ++i) take(first_[i]);
  for (const uint32_t ioBlock : plan.ioBlocks())
    for (const uint32_t block : plan.blocksOf(ioBlock))
      if (accessed[block] != 0) take(block);
  if (!order.empty())
    for (const uint32_t block : earlier) take(block);
  return order;
}

}  // namespace ckptfs
