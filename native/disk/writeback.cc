#include "disk/writeback.h"

#include <fcntl.h>

namespace ckptfs {

Writeback::~Writeback() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    closing_ = true;
  }
  changed_.notify_one();
  thread_.join();
}

void Writeback::advance(uint64_t end) {
  {
    const std::lock_guard lock(mutex_);
    // Told in pieces, so that few appends wake the thread.
    if (end - end_ < kPieceBytes) return;
    end_ = end / 4096 * 4096;
  }
  if (thread_.joinable())
    changed_.notify_one();
  else
    thread_ = std::thread([this] { run(); });
}

void Writeback::run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return closing_ || sent_ < end_; });
    if (closing_) return;
    const uint64_t end = end_;
    lock.unlock();
    // A hint: what it cannot do is left to the flush.
    static_cast<void>(
        ::sync_file_range(fd_, off_t(sent_), off_t(end - sent_), SYNC_FILE_RANGE_WRITE));
    sent_ = end;
    lock.lock();
  }
}

}  // namespace ckptfs
