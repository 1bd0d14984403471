// How fast background threads may go (requirements B6, C8): no faster than a limit, and out of the
// way while vCPU threads save or load much themselves or the guest's own disk requests are in
// flight. It never stops them for good: some progress is always granted.
//
// The host's load is left to the scheduler: background threads run at a lower priority.
//
// All calls from any thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <mutex>

namespace ckptfs {

class Pace {
 public:
  using Clock = std::function<uint64_t()>;  // monotonic, ns

  /** `limitBytesPerSecond`: 0 for none. `guestIoBusy`: whether disk requests of the guest are in
   *  flight; may be empty. */
  explicit Pace(uint64_t limitBytesPerSecond, std::function<bool()> guestIoBusy = {},
                Clock clock = steadyNs);

  /** A vCPU thread handled a block itself. For fault paths. */
  void demanded() noexcept { demands_.fetch_add(1, std::memory_order_relaxed); }

  /** A background thread wants to handle so many bytes. 0: it may, and they are counted against
   *  the limit; otherwise so many ns should pass before it asks again. */
  uint64_t delayNs(uint64_t bytes) noexcept;

  static uint64_t steadyNs() noexcept;

  /** Blocks that vCPU threads handle in a millisecond from which on background threads hold back.
   */
  static constexpr uint64_t kBusyDemandsPerMs = 16;
  /** At least one request is granted in such a time, however much the guest does. */
  static constexpr uint64_t kDemandYieldNs = 10'000'000;
  static constexpr uint64_t kIoYieldNs = 2'000'000;

 private:
  bool demandBusy(uint64_t now) noexcept;

  const uint64_t limit_;
  const std::function<bool()> guestIoBusy_;
  const Clock clock_;
  std::atomic<uint64_t> demands_{0};

  std::mutex lock_;          // guards the rest
  uint64_t nextNs_ = 0;      // what was granted keeps to the limit from here on
  uint64_t grantedNs_ = 0;   // the last grant
  uint64_t windowNs_ = 0;    // start of the window in which demands are counted
  uint64_t windowFrom_ = 0;  // demands_ then
  bool busy_ = false;        // outcome of the window before
};

}  // namespace ckptfs
