// The process-wide SIGSEGV and SIGBUS handler: finds the guest memory that a faulting address
// belongs to.
//
// Ranges are kept in a fixed table that the handler reads without a lock. A fault that no range
// claims goes on to whoever handled the signal before (in Node: V8's WebAssembly traps), with the
// meaning that its disposition had. The handler runs on the thread that touched the page, so
// everything below it may take locks that guest code never holds, but must not allocate.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ckptfs {

/** What the processor tried. `write` where the architecture does not tell. */
enum class FaultKind : uint8_t { read, write, fetch };

/** Whoever resolves the faults of one range of addresses. */
class FaultSink {
 public:
  /** An access at `offset` from the start of the range trapped. Returns when the access may be
   *  tried again; false: no trace can have caused it, and it goes to the previous handler. */
  virtual bool onFault(uint64_t offset, FaultKind kind) noexcept = 0;

 protected:
  ~FaultSink() = default;
};

/** Claims the faults in [base, base + bytes) that come as `signal` (SIGSEGV: for want of access
 * rights; SIGBUS: for want of a page) for a sink as long as it lives. Threads that touch the range
 * must have left it before the end. Throws Error(busy) when the table of kMaxFaultRanges is full.
 */
class FaultRegistration {
 public:
  FaultRegistration(int signal, const std::byte* base, uint64_t bytes, FaultSink* sink);
  ~FaultRegistration();
  FaultRegistration(const FaultRegistration&) = delete;
  FaultRegistration& operator=(const FaultRegistration&) = delete;

 private:
  size_t slot_ = 0;
};

inline constexpr size_t kMaxFaultRanges = 64;

}  // namespace ckptfs
