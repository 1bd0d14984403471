// Records in which order a guest needs the IO blocks of a checkpoint while it is restored
// (requirement F3): the next restore's order file.
//
// note() runs inside faults and takes no lock; order() when no note() is under way any more.
#pragma once

#include <atomic>
#include <memory>
#include <span>

#include "checkpoint/image/memory_map.h"
#include "checkpoint/image/order_file.h"
#include "checkpoint/restore/restore_plan.h"

namespace ckptfs {

class NeedRecorder {
 public:
  explicit NeedRecorder(const MemoryMap& map);

  /** A block with a body was needed before it was there. */
  void note(BlockId block) noexcept;

  /** One block for each IO block that was ever needed: first what had to be waited for, as it came;
   * then what was there in time and used (`accessed`: a byte per block, not 0), in the order of the
   * plan; then what only earlier restores needed. Empty when this restore needed nothing. */
  NeedOrder order(std::span<const uint8_t> accessed, const RestorePlan& plan,
                  const NeedOrder& earlier) const;

 private:
  const MemoryMap& map_;
  const std::unique_ptr<std::atomic<uint8_t>[]> noted_;  // per IO block
  const std::unique_ptr<uint32_t[]> first_;              // the noted blocks, one for an IO block
  std::atomic<uint32_t> count_{0};
};

}  // namespace ckptfs
