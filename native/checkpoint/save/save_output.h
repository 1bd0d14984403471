// Where a save's blocks go: two segments, the rows of memory.map, and blocks that share a body.
//
// write() is what workers spend their time in: several at once, each with a packer of its own.
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <string>

#include "checkpoint/image/segment.h"
#include "checkpoint/save/duplicate_index.h"
#include "checkpoint/save/save_rows.h"
#include "checkpoint/save/staging.h"
#include "memory/guest_memory.h"

namespace ckptfs {

class SaveOutput {
 public:
  /** Creates the segments in `directory`. Throws Error. */
  SaveOutput(GuestMemory& memory, const std::string& directory);

  SaveRows& rows() noexcept { return rows_; }
  const SaveRows& rows() const noexcept { return rows_; }

  struct Written {
    uint64_t stored = 0;     // blocks with a body of their own
    uint64_t duplicate = 0;  // blocks that share one
    uint64_t bytes = 0;
  };
  /** Encodes and writes a buffer's blocks. `shareable`: background threads saved them, so that most
   *  still are as they were in the pause. Throws Error. */
  Written write(format::SegmentKind kind, const StagingBuffer& buffer, IoBlockPacker& packer,
                bool shareable);

  /** Reads from byte `within` of a block whose row is complete. Throws Error. */
  void read(BlockId block, uint64_t within, std::span<std::byte> into) const;
  /** Waits until the block's row is complete, or the time is over. */
  void awaitRow(BlockId block, std::chrono::milliseconds timeout) const;
  /** After rows became complete: ends their waits. */
  void wake() const noexcept;

  struct Published {
    uint64_t bytes = 0;                 // of the files written
    std::vector<std::string> segments;  // file names that memory.map refers to
  };
  /** After the last write: seals the segments, writes memory.map, and makes all durable. Throws
   *  Error. */
  Published publish(const MemoryMap* base);
  /** Removes memory.map if publish() got as far as that: what has none is no checkpoint. */
  void withdraw() const noexcept;

 private:
  bool share(BlockId block, BlockId candidate, const std::byte* raw) noexcept;

  GuestMemory& memory_;
  const std::string mapPath_;
  SegmentWriter segments_[2];  // indexed by SegmentKind
  SaveRows rows_;
  DuplicateIndex duplicates_;
  mutable std::mutex waitLock_;
  mutable std::condition_variable rowsAdded_;
};

}  // namespace ckptfs
