// Traces by mprotect of the guest view.
//
// Each change of protection along the view is a border between two kernel mappings, and a process
// may have vm.max_map_count of them. The engine counts them exactly and refuses what would exceed
// its limit; the caller then permits a wider run.
#pragma once

#include <atomic>
#include <vector>

#include "memory/trace_engine.h"

namespace ckptfs {

class MprotectEngine final : public TraceEngine {
 public:
  MprotectEngine(const GuestView& view, FaultSink* sink, uint64_t mappingLimit);

  bool protect(BlockRange run, Rights rights) noexcept override;
  bool permit(BlockRange run, Rights rights) noexcept override;
  void permitAhead(BlockRange run, Rights rights) noexcept override { permit(run, rights); }
  uint64_t mappings() const noexcept override { return borders_ + 1; }

 private:
  /** Gives every block of the run these rights. False: refused, and all is as it was. */
  bool change(BlockRange run, Rights rights) noexcept;
  /** Makes the kernel's protection of the run what rights_ says. */
  void restore(BlockRange run) noexcept;
  /** Borders at the edges of and inside `run`. */
  uint64_t bordersOf(BlockRange run) const noexcept;
  /** Borders at the edges of `run` once all of it has these rights. */
  uint64_t bordersAround(BlockRange run, Rights rights) const noexcept;
  /** The first block of [from, end) that has these rights (does not have them); else `end`. */
  BlockId find(BlockId from, BlockId end, Rights rights) const noexcept;
  BlockId findOther(BlockId from, BlockId end, Rights rights) const noexcept;

  const GuestView view_;
  std::vector<Rights> rights_;  // per block, what the kernel has
  std::atomic<uint64_t> borders_{0};
  uint64_t borderLimit_;
  const FaultRegistration registration_;  // last: faults arrive once everything else stands
};

}  // namespace ckptfs
