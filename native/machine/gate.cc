#include "machine/gate.h"

namespace ckptfs {

bool Gate::pass() {
  std::unique_lock lock(mutex_);
  if (holds_ == 0 && !closed_) return true;
  --running_;
  parked_.notify_all();
  opened_.wait(lock, [&] { return holds_ == 0 || closed_; });
  ++running_;
  return !closed_;
}

void Gate::leave() {
  std::lock_guard lock(mutex_);
  --running_;
  parked_.notify_all();
}

void Gate::hold() {
  std::lock_guard lock(mutex_);
  ++holds_;
}

bool Gate::waitParked() {
  std::unique_lock lock(mutex_);
  parked_.wait(lock, [&] { return running_ == 0 || stuck_; });
  return running_ == 0;
}

void Gate::release() {
  std::lock_guard lock(mutex_);
  if (--holds_ == 0) opened_.notify_all();
}

void Gate::close() {
  std::lock_guard lock(mutex_);
  closed_ = true;
  opened_.notify_all();
}

void Gate::stuck(bool value) {
  std::lock_guard lock(mutex_);
  stuck_ = value;
  parked_.notify_all();
}

unsigned Gate::holds() const {
  std::lock_guard lock(mutex_);
  return holds_;
}

}  // namespace ckptfs
