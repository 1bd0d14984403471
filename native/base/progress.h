// How long work tells how far it is, and how it is stopped.
//
// The owner of the work makes one and keeps it until the work has ended. Any thread of the work may
// call advance(); the listener is called by one of them at a time.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <mutex>
#include <utility>

#include "base/error.h"

namespace ckptfs {

class Progress {
 public:
  /** Amounts so far and in all, in bytes. Must be quick. */
  using Listener = std::function<void(uint64_t doneBytes, uint64_t totalBytes)>;

  Progress() = default;
  explicit Progress(Listener listener) : listener_(std::move(listener)) {}
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /** From any thread: advance() throws from now on. */
  void cancel() noexcept { cancelled_.store(true, std::memory_order_relaxed); }

  /** The work is going to do so much more. */
  void expect(uint64_t bytes) {
    const std::lock_guard lock(lock_);
    totalBytes_ += bytes;
  }
  /** So much has been done; throws Error(cancelled) when the work is to end. */
  void advance(uint64_t bytes) {
    if (cancelled_.load(std::memory_order_relaxed)) throw Error(Code::cancelled, "cancelled");
    const std::lock_guard lock(lock_);
    doneBytes_ += bytes;
    if (listener_) listener_(doneBytes_, totalBytes_);
  }

 private:
  const Listener listener_;
  std::atomic<bool> cancelled_{false};
  std::mutex lock_;  // guards the amounts, and orders the listener's calls
  uint64_t doneBytes_ = 0;
  uint64_t totalBytes_ = 0;
};

}  // namespace ckptfs
