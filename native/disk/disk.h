// What a virtual disk offers to virtio-blk, the mount and the tests.
//
// All operations are synchronous, may be called from several threads at once, and throw Error. A
// read that overlaps a concurrent write sees either version of each 512-byte sector.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

namespace ckptfs {

/** Bytes [offset, offset + length) of a disk. */
struct Extent {
  uint64_t offset = 0;
  uint64_t length = 0;
  bool overlaps(const Extent& other) const noexcept {
    return offset < other.offset + other.length && other.offset < offset + length;
  }
  bool contains(const Extent& other) const noexcept {
    return other.offset >= offset && other.offset + other.length <= offset + length;
  }
};

/** Memory to write from, in order: of a request's segments, which lie apart. */
using Buffers = std::span<const std::span<const std::byte>>;

class Disk {
 public:
  static constexpr uint64_t kSectorBytes = 512;

  virtual ~Disk() = default;
  virtual uint64_t bytes() const noexcept = 0;
  virtual bool readOnly() const noexcept = 0;
  /** Reads take any offset and length, all else multiples of 512. Out of range: Error(usage). */
  virtual void read(uint64_t offset, std::span<std::byte> into) = 0;
  virtual void writev(uint64_t offset, Buffers from) = 0;
  void write(uint64_t offset, std::span<const std::byte> from) { writev(offset, {&from, 1}); }
  /** Returns once everything written before is durable. */
  virtual void flush() = 0;
  /** The range reads as zeros afterwards. `unmap` allows, not obliges, to free its space. */
  virtual void writeZeroes(uint64_t offset, uint64_t length, bool unmap) = 0;
  /** A hint: the contents of the range are no longer needed. They read as zeros afterwards. */
  virtual void discard(uint64_t offset, uint64_t length) = 0;
  /**
   * This disk for one request: whatever goes through the pin reaches the disk as it is now, even if
   * a checkpoint switches the disk to a new redo log meanwhile (requirement A8). `changes` are the
   * ranges that the request is going to write; until the pin is destroyed they count as a write in
   * flight. This object outlives the pin. Disks that are never switched are their own pin.
   */
  virtual std::shared_ptr<Disk> pin(std::span<const Extent> changes) {
    static_cast<void>(changes);
    return {std::shared_ptr<void>(), this};
  }
};

}  // namespace ckptfs
