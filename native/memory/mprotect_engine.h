// Traces by mprotect of the guest view: write traces are PROT_READ, access traces PROT_NONE.
//
// Each change of protection along the view is a border between two kernel mappings, and a process
// may have vm.max_map_count of them. The engine counts them exactly (one lock around mprotect and
// count) and refuses a lift that would exceed its limit; the caller then lifts a wider run.
#pragma once

#include <mutex>
#include <vector>

#include "memory/trace_engine.h"

namespace ckptfs {

class MprotectEngine final : public TraceEngine {
 public:
  MprotectEngine(const GuestView& view, FaultSink* sink, uint64_t mappingLimit);

  void prepareArm() noexcept override;
  void armWrite() override;
  void armAccess() override;
  bool lift(BlockRange run) noexcept override;
  uint64_t mappings() const noexcept override;

 private:
  void arm(int protection);
  /** Borders at the edges of and inside `run`. */
  uint64_t bordersOf(BlockRange run) const noexcept;
  /** Borders at the edges of `run` once all of it is open. */
  uint64_t bordersOfOpen(BlockRange run) const noexcept;

  const GuestView view_;
  mutable std::mutex lock_;
  std::vector<uint8_t> traced_;  // per block, 1: protected. Guarded by lock_, like the next two.
  uint64_t borders_ = 0;
  uint64_t borderLimit_;
  const FaultRegistration registration_;  // last: faults arrive once everything else stands
};

}  // namespace ckptfs
