// The restore's buffers: each holds one IO block, described by metadata that all threads consult
// (requirements C2, C3, C6).
//
// A thread pins the buffer of the IO block it needs, loading it if no buffer has it; others that
// want the same one wait for the load. A buffer is free again when its IO block needs no more
// placing, or when another IO block needs the room. Only a background thread keeps a pin while it
// waits for a memory block, so with at least two buffers somebody always gets on.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>
#include <vector>

#include "base/page_buffer.h"

namespace ckptfs {

class IoBufferPool {
 public:
  static constexpr size_t kMinBuffers = 2;

  class Buffer {
   public:
    std::span<std::byte> bytes() const noexcept { return bytes_; }
    /** Of a pinned buffer. */
    uint32_t ioBlock() const noexcept { return ioBlock_; }

   private:
    friend class IoBufferPool;
    enum class State : uint8_t { free, loading, loaded, dropped };
    std::span<std::byte> bytes_;
    uint32_t ioBlock_ = 0;
    State state_ = State::free;
    uint32_t pins_ = 0;
    uint64_t used_ = 0;  // for the choice of the one to evict
  };

  IoBufferPool(size_t buffers, uint64_t bufferBytes);

  /** Pins the buffer for `ioBlock`; waits for a load that is under way, or for a buffer.
   * `mustLoad`: the caller fills bytes() and calls loaded(). */
  Buffer& acquire(uint32_t ioBlock, bool& mustLoad) noexcept;
  /** Tells those who wait whether the load succeeded; if not, the pin is gone with the contents. */
  void loaded(Buffer& buffer, bool ok) noexcept;
  /** Pins a buffer that holds an IO block and that nobody is using, the longest unused one; or
   * null. */
  Buffer* acquireIdle() noexcept;
  /** Sleeps until acquireIdle() may have one, at most so long. */
  void waitIdle(std::chrono::nanoseconds longest) noexcept;
  /** Ends a pin. `drop`: the contents serve nobody any more (all placed, or found damaged). */
  void release(Buffer& buffer, bool drop) noexcept;

 private:
  Buffer* idle() noexcept;

  const PageBuffer memory_;
  std::mutex lock_;  // guards the buffers' metadata
  std::condition_variable changed_;
  std::vector<Buffer> buffers_;
  uint64_t clock_ = 0;
};

}  // namespace ckptfs
