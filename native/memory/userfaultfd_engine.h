// Traces by userfaultfd: write protection by UFFDIO_WRITEPROTECT, no rights by missing
// translations.
//
// Faults come as SIGBUS on the thread that touched the page. The view stays one mapping. While a
// view has never been without rights it is registered for write protection only, and a page that
// nobody has touched is the kernel's affair. From protect(none) on it is registered for missing and
// for minor faults too: then any page without a translation traps, whether a loader has filled it
// or not, so that nobody sees a half-filled block; and permit() makes the translations, of holes as
// well. (The registration stays: undoing it would drop all write protection.)
#pragma once

#include <vector>

#include "memory/trace_engine.h"

namespace ckptfs {

class UserfaultfdEngine final : public TraceEngine {
 public:
  /** Throws Error(unsupported) unless the kernel (6.4 or newer) has it and allows it. */
  UserfaultfdEngine(const GuestView& view, FaultSink* sink);
  ~UserfaultfdEngine() override;

  bool protect(BlockRange run, Rights rights) noexcept override;
  bool permit(BlockRange run, Rights rights) noexcept override;
  void permitAhead(BlockRange run, Rights rights) noexcept override;
  uint64_t mappings() const noexcept override { return 1; }

 private:
  bool enlist(uint64_t modes) noexcept;
  bool writeProtect(BlockRange run, bool on) noexcept;
  bool translate(BlockRange run, bool writable) const noexcept;
  bool isHole(BlockId block) const noexcept;
  /** The end of the blocks from `from` on that have the rights of the first one. */
  BlockId sameUntil(BlockId from, BlockId end) const noexcept;
  void note(BlockRange run, Rights rights) noexcept;

  const GuestView view_;
  std::vector<Rights> rights_;  // per block; none: no page of it has a translation
  const uint64_t hostPageBytes_;
  const int fd_;
  bool demandsPages_ = false;  // registered for missing and minor faults
  const FaultRegistration registration_;
};

}  // namespace ckptfs
