#include "fuse/invalidator.h"

#include <utility>

#include "base/thread_name.h"

namespace ckptfs::fuse {

Invalidator::Invalidator(fuse_session* fuse, const NodeTable& nodes)
    : fuse_(fuse), nodes_(nodes), thread_([this] {
        nameThread("fuse-notify");
        run();
      }) {}

void Invalidator::changed(std::string directory, std::string name) {
  {
    const std::lock_guard lock(lock_);
    if (stopping_ || queued_.size() >= kMaxQueued) return;
    queued_.push_back({std::move(directory), std::move(name)});
  }
  wake_.notify_one();
}

void Invalidator::stop() {
  {
    const std::lock_guard lock(lock_);
    stopping_ = true;
  }
  wake_.notify_one();
  if (thread_.joinable()) thread_.join();
}

void Invalidator::run() {
  std::unique_lock lock(lock_);
  for (;;) {
    wake_.wait(lock, [this] { return stopping_ || !queued_.empty(); });
    if (stopping_) return;
    const Change change = std::move(queued_.front());
    queued_.pop_front();
    lock.unlock();
    send(change);
    lock.lock();
  }
}

void Invalidator::send(const Change& change) {
  const auto directory = nodes_.at(change.directory);
  if (!directory) return;  // the kernel knows nothing of it
  // A failure says that the kernel had nothing there, or that the mount is gone.
  if (!change.name.empty())
    fuse_lowlevel_notify_inval_entry(fuse_, *directory, change.name.data(), change.name.size());
  constexpr off_t kAttributesAlone = -1;
  fuse_lowlevel_notify_inval_inode(fuse_, *directory, kAttributesAlone, 0);
}

}  // namespace ckptfs::fuse
