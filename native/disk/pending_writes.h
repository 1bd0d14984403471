// The writes of a disk that are in flight, each with the layer it goes to.
//
// A push does not wait for writes in flight: they go on into the layer that was the newest when
// they began, so that they reach the checkpointed disk and, through it, the ongoing one
// (requirement A8). What they change is not there yet, however, so two others must wait for them:
//
//   - a newer write that copies up a part of a block group which they change (requirement A13); it
//     would carry stale data into a newer layer, where it hides theirs;
//   - whoever seals their layer.
//
// Layers are numbered upwards from 0, the parent. A write only ever waits for writes to older
// layers, and the newest layer only grows: so nobody waits for one another, and once nothing older
// is in flight, nothing older ever will be. Any thread; the mutex guards the list.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <list>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "disk/disk.h"

namespace ckptfs {

class PendingWrites {
  struct Write {
    uint64_t layer;
    std::vector<Extent> changes;
  };

 public:
  /** A write in flight, while it lives. One without changes is none, and may outlive the owner. */
  class Guard {
   public:
    Guard(PendingWrites& owner, uint64_t layer, std::span<const Extent> changes);
    ~Guard();
    Guard(const Guard&) = delete;
    Guard& operator=(const Guard&) = delete;
    /** Whether the range was announced. */
    bool covers(const Extent& range) const noexcept;

   private:
    PendingWrites& owner_;
    std::optional<std::list<Write>::iterator> mine_;
  };

  /** Returns once no write to a layer below `layer` is in flight that changes some of `range`. */
  void awaitOlder(uint64_t layer, const Extent& range);
  /** Returns once no write to a layer below `layer` is in flight; false after `timeout`. */
  bool awaitOlder(uint64_t layer, std::chrono::milliseconds timeout);

 private:
  std::mutex mutex_;
  std::condition_variable ended_;
  std::list<Write> writes_;
};

}  // namespace ckptfs
