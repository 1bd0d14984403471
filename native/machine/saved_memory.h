// RAM as it was in the pause of one save, readable from the pause on (requirement F1).
//
// While the save goes on its Saver answers; once it is complete the finished files do, which stay
// open when the directory is published under another name. Any thread may read.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>

#include "base/error.h"
#include "checkpoint/image/memory_image.h"
#include "checkpoint/save/saver.h"

namespace ckptfs {

class SavedMemory {
 public:
  /** The pause of this saver is over; `bytes` is the size of RAM. */
  SavedMemory(std::shared_ptr<Saver> saver, uint64_t bytes);

  uint64_t bytes() const noexcept { return bytes_; }
  /** Reads inside memory. Throws Error: what made the save fail, damaged, or io. */
  void read(uint64_t offset, std::span<std::byte> into) const;

  /** The save is complete; its files are in `directory`. Throws Error when they cannot be opened.
   */
  void complete(const std::string& directory);
  void fail(const Error& error) noexcept;

 private:
  const uint64_t bytes_;
  mutable std::mutex mutex_;  // guards the rest; not held while reading
  std::shared_ptr<Saver> saver_;
  std::shared_ptr<const MemoryImage> image_;
  std::optional<Error> error_;
};

}  // namespace ckptfs
