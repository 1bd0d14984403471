// The trace engine that does nothing: vCPUs ask before they let accesses through (see
// GuestMemory::access), so the view is never protected and takes one mapping.
#pragma once

#include "memory/trace_engine.h"

namespace ckptfs {

class SoftEngine final : public TraceEngine {
 public:
  bool protect(BlockRange, Rights) noexcept override { return true; }
  bool permit(BlockRange, Rights) noexcept override { return true; }
  void permitAhead(BlockRange, Rights) noexcept override {}
  uint64_t mappings() const noexcept override { return 1; }
};

}  // namespace ckptfs
