// RAM as it was in the pause, readable while it is being saved (requirement F1).
//
// A block that nobody wrote to since the pause is read from guest memory itself; one that was
// copied for a writer, from its segment once it stands there. Blocks that the save need not save
// come from the base checkpoint.
//
// All calls from any thread.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>

#include "base/error.h"
#include "checkpoint/image/memory_image.h"
#include "checkpoint/save/late_contents.h"
#include "checkpoint/save/save_output.h"
#include "memory/guest_memory.h"

namespace ckptfs {

class SaveImage {
 public:
  /** `base` and `late` may be null. `flush` has the workers write what is in partly filled buffers.
   */
  SaveImage(GuestMemory& memory, const SaveOutput& output, std::shared_ptr<const MemoryImage> base,
            LateContents* late, std::function<void()> flush);

  /** After arming: fills `into` from `offset`, within RAM. Throws Error when a file cannot be read,
   *  or once the save has failed. */
  void read(uint64_t offset, std::span<std::byte> into) const;

  /** Before the traces end: from now on guest memory is not read any more. */
  void endTracing() noexcept { tracing_.store(false, std::memory_order_release); }
  /** Before blocks are opened without being saved: reads throw `error` from now on. */
  void fail(const Error& error);

 private:
  void readBlock(BlockId block, uint64_t within, std::span<std::byte> into) const;
  bool readMemory(BlockId block, uint64_t within, std::span<std::byte> into) const noexcept;
  void throwIfFailed() const;

  GuestMemory& memory_;
  const SaveOutput& output_;
  const std::shared_ptr<const MemoryImage> base_;
  LateContents* const late_;
  const std::function<void()> flush_;
  std::atomic<bool> tracing_{true};
  std::atomic<bool> failed_{false};
  mutable std::mutex lock_;  // guards error_
  std::optional<Error> error_;
};

}  // namespace ckptfs
