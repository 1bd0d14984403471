#include "disk/pending_writes.h"

#include <algorithm>

namespace ckptfs {

PendingWrites::Guard::Guard(PendingWrites& owner, uint64_t layer, std::span<const Extent> changes)
    : owner_(owner) {
  if (changes.empty()) return;
  Write write{layer, {changes.begin(), changes.end()}};
  const std::lock_guard lock(owner_.mutex_);
  mine_ = owner_.writes_.insert(owner_.writes_.end(), std::move(write));
}

PendingWrites::Guard::~Guard() {
  if (!mine_) return;
  const std::lock_guard lock(owner_.mutex_);
  owner_.writes_.erase(*mine_);
  owner_.ended_.notify_all();
}

bool PendingWrites::Guard::covers(const Extent& range) const noexcept {
  if (!mine_) return false;
  const std::vector<Extent>& changes = (*mine_)->changes;
  return std::any_of(changes.begin(), changes.end(),
                     [&](const Extent& change) { return change.contains(range); });
}

void PendingWrites::awaitOlder(uint64_t layer, const Extent& range) {
  std::unique_lock lock(mutex_);
  ended_.wait(lock, [&] {
    return std::none_of(writes_.begin(), writes_.end(), [&](const Write& write) {
      return write.layer < layer &&
             std::any_of(write.changes.begin(), write.changes.end(),
                         [&](const Extent& change) { return change.overlaps(range); });
    });
  });
}

bool PendingWrites::awaitOlder(uint64_t layer, std::chrono::milliseconds timeout) {
  std::unique_lock lock(mutex_);
  return ended_.wait_for(lock, timeout, [&] {
    return std::none_of(writes_.begin(), writes_.end(),
                        [&](const Write& write) { return write.layer < layer; });
  });
}

}  // namespace ckptfs
