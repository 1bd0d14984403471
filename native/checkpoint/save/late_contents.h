// Memory blocks whose contents at the pause are not known yet: a disk read that was in flight
// across it still writes into them (requirements A10, A11).
//
// Whoever tracks those reads implements this for a saver, which asks it before it saves a block.
// All calls come from vCPU, device and background threads, also inside faults: no call allocates
// or throws.
#pragma once

#include <cstddef>

#include "base/geometry.h"

namespace ckptfs {

class LateContents {
 public:
  virtual ~LateContents() = default;
  /** Whether reads into the block that were pending at the pause are still under way. Set for all
   *  such blocks before the pause ends; from then on it only changes to false. */
  virtual bool awaits(BlockId block) const noexcept = 0;
  /** Offers the raw contents of an awaited block (blockBytes, valid during the call), because
   *  somebody needs to write to it now. True: a copy is kept, is completed by the reads (A10), and
   *  comes back once through Saver::late(). False: it is not; then wait() comes before the save. */
  virtual bool keep(BlockId block, const std::byte* raw) noexcept = 0;
  /** Returns when awaits(block) is false (A11). */
  virtual void wait(BlockId block) noexcept = 0;
};

}  // namespace ckptfs
