// Gets blocks of a checkpoint into guest memory (requirements C2, C3, C6, C7): reads IO blocks into
// the buffer pool, and writes checked and decoded blocks from there to the memory's file.
//
// Blocks are written to the file, not through a mapping of it: the kernel then neither clears the
// pages first nor takes a fault for each, and nobody sees a page before its last byte is there.
// Every call may come from any thread, fault paths included: nothing allocates or throws. Who asks
// for a block holds it in the state `loading`.
#pragma once

#include <chrono>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "checkpoint/image/memory_image.h"
#include "checkpoint/restore/io_buffer_pool.h"
#include "memory/guest_memory.h"

namespace ckptfs {

class BlockLoader {
 public:
  using Buffer = IoBufferPool::Buffer;

  /** Memory and image have the same size and geometry, and outlive the loader. `buffers`: more than
   *  there are threads that keep one pinned while they wait for a block. */
  BlockLoader(GuestMemory& memory, const MemoryImage& image, size_t buffers);

  /** Pins the buffer with an IO block, after reading it for the sake of `block` if need be. Null:
   * it could not be read. */
  Buffer* pin(uint32_t ioBlock, BlockId block) noexcept;
  /** Pins a buffer that was read for a needed block and that nobody uses; null: there is none. */
  Buffer* pinIdle() noexcept { return pool_.acquireIdle(); }
  /** Sleeps until pinIdle() may have one, at most so long. */
  void waitIdle(std::chrono::nanoseconds longest) noexcept { pool_.waitIdle(longest); }
  /** Ends a pin after all blocks of the IO block were placed. */
  void finish(Buffer& buffer) noexcept { pool_.release(buffer, true); }

  /** Places a block out of its pinned IO block; `scratch` has room for one. False: it could not be
   *  had. */
  bool place(BlockId block, const Buffer& buffer, std::byte* scratch) noexcept;
  /** Places a block, wherever its IO block is. */
  bool place(BlockId block) noexcept;

  /** The first failure since the last forget(). */
  std::optional<BlockFault> fault() const noexcept;
  void forget() noexcept;

 private:
  /** Room to decode a block in, for the threads that share it. */
  struct Scratch {
    std::mutex lock;
    std::unique_ptr<std::byte[]> bytes;
  };
  void record(const BlockFault& fault) noexcept;

  GuestMemory& memory_;
  const MemoryImage& image_;
  IoBufferPool pool_;
  std::vector<Scratch> scratches_;
  mutable std::mutex lock_;  // guards fault_
  std::optional<BlockFault> fault_;
};

}  // namespace ckptfs
