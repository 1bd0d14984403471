// Keeps writers of overlapping block ranges apart while disjoint ones go on together.
//
// A write that covers only part of a block reads the rest, merges and appends: between the reading
// and the appending no other write may touch the block. Held ranges are few (one a request in
// flight, and virtio bounds those by its queue), so a list that is searched beats any tree.
#pragma once

#include <algorithm>
#include <condition_variable>
#include <cstdint>
#include <list>
#include <mutex>

namespace ckptfs {

class RangeLock {
  struct Range {
    uint64_t first, end;
  };

 public:
  /** Holds [first, end) while it lives. */
  class Guard {
   public:
    Guard(RangeLock& owner, uint64_t first, uint64_t end) : owner_(owner) {
      std::unique_lock lock(owner_.mutex_);
      owner_.released_.wait(lock, [&] {
        return std::none_of(owner_.held_.begin(), owner_.held_.end(),
                            [&](const Range& r) { return first < r.end && r.first < end; });
      });
      mine_ = owner_.held_.insert(owner_.held_.end(), {first, end});
    }
    ~Guard() {
      const std::lock_guard lock(owner_.mutex_);
      owner_.held_.erase(mine_);
      owner_.released_.notify_all();
    }
    Guard(const Guard&) = delete;
    Guard& operator=(const Guard&) = delete;

   private:
    RangeLock& owner_;
    std::list<Range>::iterator mine_;
  };

 private:
  std::mutex mutex_;
  std::condition_variable released_;
  std::list<Range> held_;
};

}  // namespace ckptfs
