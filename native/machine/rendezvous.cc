#include "machine/rendezvous.h"

#include <array>
#include <utility>

#include "base/error.h"

namespace ckptfs {
namespace {

constexpr std::array kNames = {"prepared", "quiet", "held", "cut"};

/** How long a save that holds up nothing of its guest waits: others may have to load their memory
 *  first. */
constexpr auto kPrepareLimit = std::chrono::minutes(10);

}  // namespace

const char* stepName(SaveStep step) noexcept {
  return kNames[size_t(step)];
}

SaveStep parseStep(const std::string& name) {
  for (size_t i = 0; i < kNames.size(); ++i)
    if (name == kNames[i]) return SaveStep(i);
  throw Error(Code::usage, "a checkpoint has no step " + name);
}

Rendezvous::Rendezvous(std::chrono::milliseconds holdLimit, std::function<void(SaveStep)> reached)
    : holdLimit_(holdLimit), reached_(std::move(reached)) {}

void Rendezvous::reach(SaveStep step) {
  if (step == SaveStep::quiet) holdEnd_ = Clock::now() + holdLimit_;
  const auto end = step == SaveStep::prepared ? Clock::now() + kPrepareLimit : holdEnd_;
  {
    const std::lock_guard lock(mutex_);
    waiting_ = step;
  }
  reached_(step);
  std::unique_lock lock(mutex_);
  changed_.wait_until(lock, end, [&] { return !waiting_ || cancelled_; });
  if (cancelled_) throw Error(Code::cancelled, "the checkpoint was cancelled");
  if (waiting_) {
    waiting_.reset();
    throw Error(Code::busy,
                "the other VMs were not ready in time, so this one goes on without a checkpoint; "
                "try again, or allow more time");
  }
}

void Rendezvous::proceed(SaveStep step) {
  const std::lock_guard lock(mutex_);
  if (waiting_ != step)
    throw Error(Code::usage, std::string("the checkpoint does not wait at step ") + stepName(step));
  waiting_.reset();
  changed_.notify_all();
}

void Rendezvous::cancel() {
  const std::lock_guard lock(mutex_);
  cancelled_ = true;
  changed_.notify_all();
}

}  // namespace ckptfs
