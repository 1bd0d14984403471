// Guest time: ticks of the platform timer, that stand still while the machine is quiesced.
//
// now() may be called from any thread at any time; freeze and run are called by the machine only.
#pragma once

#include <atomic>
#include <cstdint>

namespace ckptfs {

class GuestClock {
 public:
  static constexpr uint64_t kTicksPerSecond = 10'000'000;  // timebase-frequency of the device tree

  /** Ticks since the guest was first started, carried across checkpoints. */
  uint64_t now() const noexcept;
  bool running() const noexcept;
  /** Sets the reading of a stopped clock (restore). */
  void set(uint64_t ticks) noexcept;
  void run() noexcept;
  void freeze() noexcept;
  /** Host nanoseconds (CLOCK_MONOTONIC) at which a running clock will read `ticks`. */
  uint64_t hostNanosAt(uint64_t ticks) const noexcept;

 private:
  // While running, reading = hostNanos/100 + offset_. While frozen, reading = offset_.
  // One atomic pair guarded by a sequence counter, so that readers never take a lock.
  std::atomic<uint32_t> sequence_{0};
  std::atomic<bool> running_{false};
  std::atomic<uint64_t> offset_{0};
};

}  // namespace ckptfs
