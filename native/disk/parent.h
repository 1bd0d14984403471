// The raw file or block device that a virtual disk starts from.
//
// Opened read-only it is shared among any number of VMs; opened writable it belongs to one.
// freeze() turns the second into the first, when redo logs take over its writes. Reads and writes
// may come from several threads at once; freeze() only while no write is under way. Ranges are
// checked by Chain.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>
#include <string>

#include "disk/file.h"

namespace ckptfs {

/** What a parent looked like when a checkpoint came to depend on it. */
struct ParentIdentity {
  uint64_t bytes = 0;
  uint64_t mtimeNs = 0;  // since 1970; 0 for a block device, which has no time of its own
  bool operator==(const ParentIdentity&) const = default;
};

class Parent {
 public:
  /** Throws Error: notFound, busy, io; usage if it is empty or not a whole number of sectors. */
  Parent(const std::string& path, bool writable);

  const std::string& path() const noexcept { return file_.path(); }
  uint64_t bytes() const noexcept { return bytes_; }
  /** As it was when opened read-only or frozen; as it is now while it is still written. */
  ParentIdentity identity() const;
  /** Throws Error(damaged) unless identity() is `expected`. */
  void require(const ParentIdentity& expected) const;

  void read(uint64_t offset, std::span<std::byte> into) const { file_.read(offset, into); }
  void write(uint64_t offset, std::span<const std::byte> from) { file_.write(offset, from); }
  void flush();
  /** The range reads as zeros afterwards, its space freed if `unmap` and the filesystem can. */
  void zero(uint64_t offset, uint64_t length, bool unmap);
  /** Makes all durable, records the identity and shares the file; idempotent. */
  void freeze();

 private:
  ParentIdentity look() const;

  File file_;
  uint64_t bytes_;
  mutable std::mutex mutex_;  // guards the two below
  bool writable_;
  ParentIdentity identity_;
};

}  // namespace ckptfs
