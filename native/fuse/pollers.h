// Programs that wait, by poll(2) and its like, until an open file has changed: one wake-up for
// each.
//
// All calls from any thread. The kernel asks again when it is woken, and waits anew.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <utility>

#include "fuse/fuse_api.h"

namespace ckptfs::fuse {

struct ForgetPoll {
  void operator()(fuse_pollhandle* poll) const noexcept { fuse_pollhandle_destroy(poll); }
};
/** How the kernel is told of one file. */
using Poll = std::unique_ptr<fuse_pollhandle, ForgetPoll>;

class Pollers {
 public:
  /** Whoever waits for the file is woken by the next wake(). The newest Poll is the one to tell. */
  void wait(uint64_t handle, Poll poll) {
    const std::lock_guard lock(lock_);
    waiting_.insert_or_assign(handle, std::move(poll));
  }
  void wake(uint64_t handle) {
    if (const Poll poll = take(handle)) fuse_lowlevel_notify_poll(poll.get());
  }
  /** The file is closed. */
  void drop(uint64_t handle) { take(handle); }

 private:
  Poll take(uint64_t handle) {
    const std::lock_guard lock(lock_);
    auto found = waiting_.extract(handle);
    return found ? std::move(found.mapped()) : nullptr;
  }

  std::mutex lock_;  // guards waiting_; no more of them than there are open files
  std::unordered_map<uint64_t, Poll> waiting_;
};

}  // namespace ckptfs::fuse
