// A file of a checkpoint: owned descriptor, whole reads and whole writes at given offsets.
//
// The noexcept calls serve fault paths and return errno; the others throw Error naming the path. A
// read of a file that is still arriving (base/arrival.h) waits for what it needs.
#pragma once

#include <sys/uio.h>

#include <compare>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/arrival.h"

namespace ckptfs {

/** Which file, and in which state: equal for hard links, not for copies nor after a change. */
struct FileIdentity {
  uint64_t device;
  uint64_t inode;
  uint64_t bytes;
  int64_t modifiedNs;
  auto operator<=>(const FileIdentity&) const = default;
};

class CheckpointFile {
 public:
  /** Opens for reading. */
  static CheckpointFile open(const std::string& path);
  /** Creates for writing; the file must not exist. Mode 0600: it holds guest memory. */
  static CheckpointFile create(const std::string& path);
  CheckpointFile(CheckpointFile&& other) noexcept;
  ~CheckpointFile();
  CheckpointFile(const CheckpointFile&) = delete;
  CheckpointFile& operator=(const CheckpointFile&) = delete;

  const std::string& path() const noexcept { return path_; }
  /** Throws Error(damaged) for what is not a regular file. */
  FileIdentity identity() const;
  uint64_t bytes() const { return identity().bytes; }
  /** 0, an errno, or kShort when the file ends first. */
  static constexpr int kShort = -1;
  int tryRead(uint64_t offset, std::span<std::byte> into) const noexcept;
  int tryWrite(uint64_t offset, std::span<const std::byte> from) const noexcept;
  /** Throws Error(damaged) when the file ends first. */
  void read(uint64_t offset, std::span<std::byte> into) const;
  void write(uint64_t offset, std::span<const std::byte> from) const;
  /** Writes the pieces one after another. */
  void write(uint64_t offset, std::span<const iovec> pieces) const;
  /** Begins to send what was written there to the device. Only a hint: errors show in sync(). */
  void startWriteback(uint64_t offset, uint64_t bytes) const noexcept;
  void sync() const;
  /** Opens the path again under the same descriptor, for a file that was replaced; one whose name
   * is gone (its checkpoint was compacted or removed) stays as it is. Any thread. */
  void reopen() const;

 private:
  CheckpointFile(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}
  std::string path_;
  int fd_;
  std::shared_ptr<Arrival> arrival_;  // null: all of it is here
};

}  // namespace ckptfs
