// A disk of a checkpoint with writes of its own on top, which no checkpoint has: for the mount.
//
// The writes go to a redo log over the layers of the checkpoint, which stay as they are; a log that
// was kept is written on. They take
// any offset and length, as those to a file do, while a chain takes whole sectors: a write that
// covers a part of one reads the rest, and is alone on the disk meanwhile. Any thread may call any
// member at any time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <shared_mutex>
#include <span>
#include <string>

#include "disk/chain.h"

namespace ckptfs {

class Overlay {
 public:
  /** Over a chain that was opened with Access::overlay; goes on with the log at `path`, or creates
   *  it. Throws Error: usage for a log of another disk, busy, damaged, io, noSpace. */
  Overlay(std::shared_ptr<Chain> chain, const std::string& path);

  uint64_t bytes() const noexcept { return chain_->bytes(); }
  void read(uint64_t offset, std::span<std::byte> into) const { chain_->read(offset, into); }
  /** Throws Error: usage beyond the end of the disk, noSpace, io. */
  void write(uint64_t offset, std::span<const std::byte> from);
  /** The range reads as zeros afterwards; throws as write() does. */
  void zero(uint64_t offset, uint64_t length);
  /** Everything written before is durable in the log when it returns. */
  void flush() { chain_->flush(); }

 private:
  void requireRange(uint64_t offset, uint64_t length) const;
  void writeParts(uint64_t offset, std::span<const std::byte> from);

  const std::shared_ptr<Chain> chain_;
  std::shared_mutex sectors_;  // exclusive for a write that covers a part of a sector
};

}  // namespace ckptfs
