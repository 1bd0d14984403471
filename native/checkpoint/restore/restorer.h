// Brings guest memory back from a checkpoint, while the guest runs already (requirements C1-C8).
//
// Life: construct, arm() and start() before the vCPUs run; or loadAll() instead of both.
//
// A fault looks its block up in the map, finds or loads the IO block in the buffer pool and places
// that one block. Background threads place the rest of such IO blocks first, and otherwise follow
// the plan (restore_plan.h). Each of them goes through the plan once in a pass; the last one to
// finish looks whether anything is left. Damage stops nothing but the vCPU that needs the block: it
// waits in its fault until retry() succeeds; no guest ever sees wrong contents.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "checkpoint/image/memory_image.h"
#include "checkpoint/pace.h"
#include "checkpoint/restore/block_loader.h"
#include "checkpoint/restore/need_recorder.h"
#include "checkpoint/restore/restore_plan.h"
#include "memory/guest_memory.h"

namespace ckptfs {

struct RestoreOptions {
  unsigned threads = 2;        // in the background, at least 1
  size_t buffers = 16;         // of one IO block each; at least threads + 1 are made
  std::string id = {};         // of the checkpoint, for the order file
  std::string orderFile = {};  // read if there, replaced after the restore; empty: none
  // What background threads read (requirement C8); they go on placing what is read already.
  uint64_t limitBytesPerSecond = 0;        // 0: no limit
  std::function<bool()> guestIoBusy = {};  // whether disk requests of the guest are in flight
};

/** Numbers of memory blocks, unless the name has a unit. */
struct RestoreProgress {
  uint64_t total = 0;
  uint64_t demand = 0;      // placed by threads that needed them
  uint64_t prefetched = 0;  // placed by background threads
  uint64_t zero = 0;        // all zeros: nothing to read
  uint64_t demandStallNs =
      0;  // what threads that needed blocks spent on placing them, all together
  bool done = false;
  bool failed = false;      // all has been tried, and some could not be loaded; until retry()
  uint64_t completeNs = 0;  // when it was done, CLOCK_MONOTONIC
  std::string error;        // the first failure since the last retry, empty if none
};

class Restorer : public TraceClient {
 public:
  /** `memory` is fresh, and of the image's size and geometry; the image outlives the restorer.
   * Throws Error(usage) if they do not match. */
  Restorer(GuestMemory& memory, const MemoryImage& image, RestoreOptions options = {});
  /** Stops the background threads. Blocks that are still absent can never be had after this. */
  ~Restorer() override;
  Restorer(const Restorer&) = delete;
  Restorer& operator=(const Restorer&) = delete;

  /** Loads everything before it returns. Throws Error; then the memory is of no use. */
  void loadAll();

  /** Traces all of memory; vCPUs may run after it. Throws Error. */
  void arm();
  /** Starts the background threads; after loadAll() there is nothing to do for them. */
  void start();
  /** After start(): waits until all of memory is loaded. Throws the first failure once everything
   * else is loaded; after retry() it may be called again. Throws Error(cancelled) after stop(). */
  void wait();
  /** Tries again what failed, from the segment files as they are now. Throws Error when they cannot
   * be opened; then everything is as before. */
  void retry();
  /** Ends the background threads; blocks go on to be loaded when they are needed. When the restore
   * was complete the order file is written after this. */
  void stop();
  RestoreProgress progress() const;

  bool handle(BlockId block, Cause cause) noexcept override;

 private:
  using Buffer = BlockLoader::Buffer;
  /** What a background thread has at hand. */
  struct Worker {
    Buffer* buffer = nullptr;  // pinned
    std::unique_ptr<std::byte[]> scratch;
  };
  enum class State : uint8_t { idle, working, failed, done };

  void work();
  void makePlan();
  void pass() noexcept;
  bool take(const RestorePlan::Step& step) noexcept;
  void settleZeros(BlockRange range) noexcept;
  void placeRest(Buffer& buffer) noexcept;
  void beginPass() noexcept;
  void endPass(std::unique_lock<std::mutex>& lock);
  void complete(std::unique_lock<std::mutex>& lock);
  void learn(std::span<const uint8_t> accessed) noexcept;

  static thread_local Worker worker_;  // not for faults, where it may not be made

  GuestMemory& memory_;
  const MemoryImage& image_;
  const RestoreOptions options_;
  BlockLoader loader_;
  NeedRecorder needs_;
  Pace pace_;

  std::once_flag planned_;  // the first background thread makes the next two
  NeedOrder learnt_;
  std::unique_ptr<RestorePlan> plan_;

  std::atomic<uint64_t> demand_{0};
  std::atomic<uint64_t> prefetched_{0};
  std::atomic<uint64_t> zero_{0};
  std::atomic<uint64_t> demandStallNs_{0};

  std::atomic<bool> stop_{false};
  mutable std::mutex stateLock_;  // guards the rest
  std::condition_variable stateChanged_;
  State state_ = State::idle;
  uint64_t completeNs_ = 0;
  uint64_t pass_ = 0;     // number of the pass under way, or of the last one
  unsigned working_ = 0;  // threads that have not finished it
  bool again_ = false;    // retry() asked for another one meanwhile
  std::vector<std::thread> threads_;
};

}  // namespace ckptfs
