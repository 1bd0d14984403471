#include "machine/timers.h"

#include <algorithm>
#include <chrono>

#include "base/thread_name.h"

namespace ckptfs {

Timers::Timers(const GuestClock& clock, unsigned vcpus, std::function<void(unsigned)> expired)
    : clock_(clock), expired_(std::move(expired)), deadlines_(vcpus, kNever) {
  thread_ = std::thread([this] { run(); });
}

Timers::~Timers() {
  {
    std::lock_guard lock(mutex_);
    closing_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void Timers::set(unsigned vcpu, uint64_t ticks) {
  {
    std::lock_guard lock(mutex_);
    const uint64_t earliest = *std::min_element(deadlines_.begin(), deadlines_.end());
    deadlines_[vcpu] = ticks;
    // A later deadline needs no wake-up: the thread looks again when the earlier one passes.
    if (ticks >= earliest) return;
    woken_ = true;
  }
  changed_.notify_all();
}

void Timers::wake() {
  {
    std::lock_guard lock(mutex_);
    woken_ = true;
  }
  changed_.notify_all();
}

void Timers::run() {
  nameThread("ckptfs-timer");
  std::unique_lock lock(mutex_);
  while (!closing_) {
    woken_ = false;
    const auto earliest = std::min_element(deadlines_.begin(), deadlines_.end());
    if (*earliest == kNever || !clock_.running()) {
      changed_.wait(lock, [&] { return woken_ || closing_; });
      continue;
    }
    if (clock_.now() >= *earliest) {
      const auto vcpu = unsigned(earliest - deadlines_.begin());
      *earliest = kNever;
      lock.unlock();
      expired_(vcpu);
      lock.lock();
      continue;
    }
    const std::chrono::steady_clock::time_point at{
        std::chrono::nanoseconds(clock_.hostNanosAt(*earliest))};
    changed_.wait_until(lock, at, [&] { return woken_ || closing_; });
  }
}

}  // namespace ckptfs
