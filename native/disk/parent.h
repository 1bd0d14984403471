// The raw file or block device that a virtual disk starts from.
//
// Read-only it is shared among any number of VMs; while it is written it belongs to one: from the
// start, if the guest writes to it directly, or from own() on, if redo logs are committed into it.
// freeze() makes it read-only again. Reads and writes may come from several threads at once;
// freeze() only while no write is under way. Ranges are checked by Chain.
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
  enum class Access : uint8_t {
    read,
    commit,  // to read, until own()
    direct,  // writes of the guest go to it
  };
  /** Throws Error: notFound, busy, io; usage if it is empty or not a whole number of sectors. */
  Parent(const std::string& path, Access access);

  const std::string& path() const noexcept { return file_.path(); }
  uint64_t bytes() const noexcept { return bytes_; }
  /** As it was when opened read-only or frozen; as it is now while it is still written. */
  ParentIdentity identity() const;
  /** Throws Error(damaged) unless identity() is `expected`. */
  void require(const ParentIdentity& expected) const;

  void read(uint64_t offset, std::span<std::byte> into) const { file_.read(offset, into); }
  void writev(uint64_t offset, Buffers from) { file_.writev(offset, from); }
  void write(uint64_t offset, std::span<const std::byte> from) { file_.write(offset, from); }
  /** The longest run from `offset` on, of at most `length` bytes, that is a hole or is none. */
  struct Run {
    uint64_t bytes;
    bool hole;
  };
  Run run(uint64_t offset, uint64_t length) const;
  /** What the guest wrote to it is durable when it returns; nothing to do unless that was direct.
   */
  void flush();
  /** The range reads as zeros afterwards, its space freed if `unmap` and the filesystem can. */
  void zero(uint64_t offset, uint64_t length, bool unmap);
  /** Takes it for a commit. Throws Error: busy while others use it; usage if it is read-only. */
  void own();
  /** What a commit wrote to it is durable when it returns. */
  void sync() { file_.sync(); }
  /** Makes all durable, records the identity and shares the file; idempotent. */
  void freeze();

 private:
  ParentIdentity look() const;

  File file_;
  uint64_t bytes_;
  mutable std::mutex mutex_;  // guards the two below
  enum class Writer : uint8_t { none, guest, commit } writer_;
  ParentIdentity identity_;
};

}  // namespace ckptfs
