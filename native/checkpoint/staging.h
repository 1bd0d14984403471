// Staging buffers: where saved blocks gather until there is an IO block full of them (B2, B3).
//
// A pool owns all buffers. Fault threads take free ones and submit full ones; one writer thread
// takes the full ones and gives them back. Nothing on the fault side allocates: the pool grows on
// the writer thread, after a fault found no free buffer.
#pragma once

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
  explicit StagingBuffer(const Geometry& geometry);
  /** Not when full. */
  void add(BlockId block, const std::byte* contents) noexcept;
  bool full() const noexcept { return count_ == capacity_; }
  bool empty() const noexcept { return count_ == 0; }
  uint32_t room() const noexcept { return capacity_ - count_; }
  void clear() noexcept { count_ = 0; }
  std::span<const BlockId> ids() const noexcept { return {ids_.get(), count_}; }
  const std::byte* raw() const noexcept { return raw_.get(); }

 private:
  friend class StagingPool;
  const uint64_t blockBytes_;
  const uint32_t capacity_;
  uint32_t count_ = 0;
  std::unique_ptr<BlockId[]> ids_;
  std::unique_ptr<std::byte[]> raw_;  // zeroed, so that its pages exist before the pause
  StagingBuffer* next_ = nullptr;     // in the free list or in the queue
};

class StagingPool {
 public:
  /** At most 32 MiB of buffers beyond the first ones, and at least as many again as asked for. */
  StagingPool(const Geometry& geometry, size_t buffers);

  /** A free buffer, empty; waits for one. */
  StagingBuffer* take() noexcept;
  /** A free buffer, or null at once. */
  StagingBuffer* tryTake() noexcept;
  /** Queues a buffer for the writer. */
  void submit(StagingBuffer* buffer) noexcept;

  /** The writer's side: the oldest queued buffer; waits; null when closed and drained. */
  StagingBuffer* nextFull() noexcept;
  /** Returns a buffer that nextFull() gave; adds one to the pool if some fault had to wait. */
  void release(StagingBuffer* buffer) noexcept;
  /** Nothing will be submitted any more. */
  void close() noexcept;

 private:
  StagingBuffer* popFree() noexcept;

  const Geometry geometry_;
  size_t limit_;
  std::mutex lock_;  // guards everything below
  std::condition_variable freed_, filled_;
  std::vector<std::unique_ptr<StagingBuffer>> all_;
  StagingBuffer* free_ = nullptr;
  StagingBuffer* oldest_ = nullptr;
  StagingBuffer* newest_ = nullptr;
  bool starved_ = false;
  bool closed_ = false;
};

}  // namespace ckptfs
