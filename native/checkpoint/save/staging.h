// Staging buffers: where saved blocks gather until there is an IO block full of them (B2, B3).
//
// A pool owns all buffers. Threads that save take free ones and submit full ones; the saver's
// workers take the full ones and give them back. Nothing on the fault side allocates: the first
// buffers exist before the pause, and workers add more ahead of need.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "base/geometry.h"

namespace ckptfs {

/** Raw contents and ids of up to blocksPerIoBlock memory blocks. */
class StagingBuffer {
 public:
  /** `raw`: room for an IO block. */
  StagingBuffer(const Geometry& geometry, std::byte* raw);
  /** Not when full. */
  void add(BlockId block, const std::byte* contents) noexcept;
  bool full() const noexcept { return count_ == capacity_; }
  bool empty() const noexcept { return count_ == 0; }
  uint32_t room() const noexcept { return capacity_ - count_; }
  void clear() noexcept { count_ = 0; }
  std::span<const BlockId> ids() const noexcept { return {ids_.get(), count_}; }
  const std::byte* raw(size_t index) const noexcept { return raw_ + index * blockBytes_; }

 private:
  friend class StagingPool;
  const uint64_t blockBytes_;
  const uint32_t capacity_;
  uint32_t count_ = 0;
  std::unique_ptr<BlockId[]> ids_;
  std::byte* raw_;
  StagingBuffer* next_ = nullptr;  // in the free list or in the queue
};

class StagingPool {
 public:
  /** At least `least` buffers and those that fit `bytes`, their memory populated; grow() adds more
   *  up to `limitBytes`. Throws Error. */
  StagingPool(const Geometry& geometry, size_t least, uint64_t bytes, uint64_t limitBytes);

  /** A free buffer, empty; waits for one. */
  StagingBuffer* take() noexcept;
  /** A free buffer, or null at once. */
  StagingBuffer* tryTake() noexcept;
  /** Queues a buffer for the workers. */
  void submit(StagingBuffer* buffer) noexcept;

  // The workers' side.
  /** The oldest queued buffer; waits for one until closed, or until the time is over or interrupt()
   *  was called `interrupts` times: then null. */
  StagingBuffer* nextFull(std::chrono::nanoseconds timeout, uint64_t interrupts) noexcept;
  /** Waits until a buffer is queued or the pool is closed; null: closed and drained. */
  StagingBuffer* lastFull() noexcept;
  /** Gives back a buffer that came from nextFull(). */
  void release(StagingBuffer* buffer) noexcept;
  /** Adds buffers when few are free. */
  void grow() noexcept;

  /** Ends all waits of nextFull(). */
  void interrupt() noexcept;
  /** How often interrupt() was called. */
  uint64_t interrupts() const noexcept { return interrupts_.load(std::memory_order_acquire); }
  /** Nothing will be submitted any more. */
  void close() noexcept;
  /** Frees all memory; no buffer may be used any more. */
  void giveBack() noexcept;

  struct Counters {
    uint64_t buffers = 0;
    uint64_t starved = 0;  // waits of take()
  };
  Counters counters() const noexcept;

 private:
  class Chunk {  // anonymous memory, populated
   public:
    explicit Chunk(uint64_t bytes);
    ~Chunk();
    Chunk(Chunk&& other) noexcept : memory_(other.memory_), bytes_(other.bytes_) {
      other.memory_ = nullptr;
    }
    Chunk(const Chunk&) = delete;
    std::byte* memory() const noexcept { return memory_; }

   private:
    std::byte* memory_;
    uint64_t bytes_;
  };
  StagingBuffer* popFree() noexcept;
  StagingBuffer* popFull() noexcept;
  void add(size_t buffers);

  const Geometry geometry_;
  const size_t limit_;       // buffers
  const size_t step_;        // of grow()
  mutable std::mutex lock_;  // guards what is below
  std::condition_variable freed_, filled_;
  std::vector<Chunk> chunks_;
  std::vector<std::unique_ptr<StagingBuffer>> all_;
  StagingBuffer* free_ = nullptr;
  size_t freeCount_ = 0;
  StagingBuffer* oldest_ = nullptr;
  StagingBuffer* newest_ = nullptr;
  uint64_t starved_ = 0;
  bool growing_ = false;
  bool closed_ = false;
  std::atomic<uint64_t> interrupts_{0};
};

}  // namespace ckptfs
