#include "base/clock.h"

#include <ctime>

namespace ckptfs {
namespace {

constexpr uint64_t kNanosPerTick = 1'000'000'000 / GuestClock::kTicksPerSecond;

uint64_t hostNanos() noexcept {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return uint64_t(t.tv_sec) * 1'000'000'000 + uint64_t(t.tv_nsec);
}

}  // namespace

uint64_t GuestClock::now() const noexcept {
  for (;;) {
    const uint32_t before = sequence_.load();
    const bool running = running_.load();
    const uint64_t offset = offset_.load();
    if ((before & 1) == 0 && sequence_.load() == before)
      return running ? hostNanos() / kNanosPerTick + offset : offset;
  }
}

bool GuestClock::running() const noexcept {
  return running_.load();
}

void GuestClock::set(uint64_t ticks) noexcept {
  offset_.store(ticks);
}

void GuestClock::run() noexcept {
  if (running_.load()) return;
  sequence_.fetch_add(1);
  offset_.store(offset_.load() - hostNanos() / kNanosPerTick);
  running_.store(true);
  sequence_.fetch_add(1);
}

void GuestClock::freeze() noexcept {
  if (!running_.load()) return;
  sequence_.fetch_add(1);
  offset_.store(hostNanos() / kNanosPerTick + offset_.load());
  running_.store(false);
  sequence_.fetch_add(1);
}

uint64_t GuestClock::hostNanosAt(uint64_t ticks) const noexcept {
  const uint64_t ahead = ticks - now();
  if (int64_t(ahead) <= 0) return hostNanos();
  constexpr uint64_t kFarTicks = uint64_t{1} << 40;  // a day and more: no deadline needs better
  return hostNanos() + (ahead < kFarTicks ? ahead : kFarTicks) * kNanosPerTick;
}

}  // namespace ckptfs
