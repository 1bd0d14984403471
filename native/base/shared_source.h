// A source that JavaScript and the mount have open together, and that can become another one under
// them: the disk of a checkpoint, once somebody writes to its overlay.
//
// From any thread. A call that is under way when the source becomes another one ends on the old
// one, which lives until then.
#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <mutex>
#include <utility>

#include "base/byte_source.h"

namespace ckptfs {

class SharedSource {
 public:
  explicit SharedSource(ByteSource source)
      : now_(std::make_shared<const ByteSource>(std::move(source))) {}

  std::shared_ptr<const ByteSource> now() const {
    const std::lock_guard lock(lock_);
    return now_;
  }
  /** From now on whoever has this open has what `other` is now. */
  void become(const SharedSource& other) {
    auto next = other.now();
    const std::lock_guard lock(lock_);
    now_ = std::move(next);
  }

  void write(uint64_t offset, std::span<const std::byte> from) {
    now()->write(offset, from);
    touch();
  }
  void zero(uint64_t offset, uint64_t length) {
    now()->zero(offset, length);
    touch();
  }
  /** When it was last written to, in ms since 1970; 0 if it was not. */
  int64_t writtenMs() const noexcept { return writtenMs_.load(std::memory_order_relaxed); }

 private:
  void touch() noexcept {
    const auto now = std::chrono::system_clock::now().time_since_epoch();
    writtenMs_ = std::chrono::duration_cast<std::chrono::milliseconds>(now).count();
  }

  mutable std::mutex lock_;  // guards now_
  std::shared_ptr<const ByteSource> now_;
  std::atomic<int64_t> writtenMs_{0};
};

}  // namespace ckptfs
