// Brings guest memory back from a checkpoint, while the guest runs already (requirements C1-C7).
//
// Life: construct, arm() and start() before the vCPUs run; or loadAll() instead of both.
//
// A fault looks its block up in the map, finds or loads the IO block in the buffer pool and places
// that one block. The background thread places the rest of such IO blocks first, and otherwise goes
// through the hot segment, the zero blocks and the cold segment. Damage stops nothing but the vCPU
// that needs the block: it waits in its fault until retry() succeeds; no guest ever sees wrong
// contents.
#pragma once

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "checkpoint/io_buffer_pool.h"
#include "checkpoint/memory_image.h"
#include "memory/guest_memory.h"

namespace ckptfs {

/** Numbers of memory blocks. */
struct RestoreProgress {
  uint64_t total = 0;
  uint64_t demand = 0;      // placed by threads that needed them
  uint64_t prefetched = 0;  // placed by the background thread
  uint64_t zero = 0;        // all zeros: nothing to read
  bool done = false;
  uint64_t completeNs = 0;  // when it was done, CLOCK_MONOTONIC
  std::string error;        // the first failure since the last retry, empty if none
};

class Restorer final : public TraceClient {
 public:
  /** `memory` is fresh, and of the image's size and geometry; the image outlives the restorer.
   * Throws Error(usage) if they do not match. */
  Restorer(GuestMemory& memory, const MemoryImage& image, size_t buffers = 16);
  /** Stops the background thread. Blocks that are still absent can never be had after this. */
  ~Restorer() override;
  Restorer(const Restorer&) = delete;
  Restorer& operator=(const Restorer&) = delete;

  /** Loads everything on the calling thread. Throws Error; then the memory is of no use. */
  void loadAll();

  /** Traces all of memory; vCPUs may run after it. Throws Error. */
  void arm();
  /** Starts the background thread; after loadAll() there is nothing to do for it. */
  void start();
  /** Waits until all of memory is loaded. Throws the first failure once the background thread has
   * loaded everything else; after retry() it may be called again. */
  void wait();
  /** Tries again what failed, from the segment files as they are now. Throws Error when they cannot
   * be opened; then everything is as before. */
  void retry();
  /** Ends the background thread; blocks go on to be loaded when they are needed. */
  void stop();
  RestoreProgress progress() const;

  bool handle(BlockId block, Cause cause) noexcept override;

 private:
  void background();
  bool pass() noexcept;
  bool passSegments(format::SegmentKind kind) noexcept;
  bool passZeros() noexcept;
  bool placeRest(IoBufferPool::Buffer& buffer) noexcept;
  void complete() noexcept;
  void record(const BlockFault& fault) noexcept;

  GuestMemory& memory_;
  const MemoryImage& image_;
  IoBufferPool pool_;
  std::unique_ptr<std::atomic<uint32_t>[]> unplaced_;  // per IO block: memory blocks still absent

  std::atomic<uint64_t> demand_{0};
  std::atomic<uint64_t> prefetched_{0};
  std::atomic<uint64_t> zero_{0};

  std::atomic<bool> stop_{false};
  mutable std::mutex stateLock_;  // guards the rest
  std::condition_variable stateChanged_;
  enum class State : uint8_t { idle, working, failed, done } state_ = State::idle;
  std::optional<BlockFault> fault_;
  uint64_t completeNs_ = 0;
  bool again_ = false;  // retry() asked for another pass
  std::thread thread_;
};

}  // namespace ckptfs
