#include "checkpoint/pace.h"

#include <algorithm>
#include <chrono>

namespace ckptfs {

namespace {
constexpr uint64_t kMs = 1'000'000;
constexpr uint64_t kSecond = 1'000'000'000;
// What was not used of the limit is kept for so long.
constexpr uint64_t kBurstNs = 50 * kMs;
// Who is held back asks again after at most so long.
constexpr uint64_t kLongestNs = 100 * kMs;
}  // namespace

Pace::Pace(uint64_t limitBytesPerSecond, std::function<bool()> guestIoBusy, Clock clock)
    : limit_(limitBytesPerSecond),
      guestIoBusy_(std::move(guestIoBusy)),
      clock_(std::move(clock)),
      nextNs_(clock_()),
      grantedNs_(nextNs_),
      windowNs_(nextNs_) {}

uint64_t Pace::steadyNs() noexcept {
  return static_cast<uint64_t>(std::chrono::steady_clock::now().time_since_epoch() /
                               std::chrono::nanoseconds(1));
}

bool Pace::demandBusy(uint64_t now) noexcept {
  if (now - windowNs_ < kMs) return busy_;
  const uint64_t demands = demands_.load(std::memory_order_relaxed);
  busy_ = (demands - windowFrom_) * kMs >= kBusyDemandsPerMs * (now - windowNs_);
  windowNs_ = now;
  windowFrom_ = demands;
  return busy_;
}

uint64_t Pace::delayNs(uint64_t bytes) noexcept {
  const std::lock_guard lock(lock_);
  const uint64_t now = clock_();
  if (limit_ != 0 && now < nextNs_) return std::min(nextNs_ - now, kLongestNs);
  const uint64_t since = now - grantedNs_;
  if (since < kDemandYieldNs && demandBusy(now)) return std::min(kMs, kDemandYieldNs - since);
  if (since < kIoYieldNs && guestIoBusy_ && guestIoBusy_())
    return std::min(kMs, kIoYieldNs - since);
  grantedNs_ = now;
  if (limit_ != 0) {
    const uint64_t from = std::max(nextNs_, now - std::min(now, kBurstNs));
    // In parts, so that nothing overflows: a limit of 1 byte/s, IO blocks of 64 MiB.
    nextNs_ = from + bytes / limit_ * kSecond + bytes % limit_ * kSecond / limit_;
  }
  return 0;
}

}  // namespace ckptfs
