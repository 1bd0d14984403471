// One request of virtio-blk (virtio 1.2, section 5.2.6): its framing, checks and execution.
//
// The framing is the driver's: the first 16 readable bytes are the header and the last writable
// byte is the status, however they are spread over descriptors. Data goes straight between guest
// memory and the disk, which may change under it at any time.
//
// Executing a request twice is harmless, because until it is completed the driver may assume
// nothing about its sectors. So a request that memory stops halfway is simply executed again later,
// and so is one that was in flight when a checkpoint was taken, in the VM that is restored from it.
//
// accept() decides all that does not depend on data: what it is, whether it is well formed, which
// ranges it reads or changes. It also pins the disk, so that a request which is in flight across a
// checkpoint reads and writes the disk of before, to its end (requirement A8).
//
// Belongs to one thread at a time: the one that takes it from the queue, then a worker. What
// accept() found may be read by any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "devices/virtio/queue.h"
#include "disk/disk.h"

namespace ckptfs {

/** What a request is carried out on; read by several workers at once. */
struct BlkTarget {
  Disk& disk;
  const GuestRam& ram;
  std::string id;                               // what GET_ID tells, at most kIdBytes
  std::function<void(const Error&)> onFailure;  // told of every disk error, on a worker thread
};

class BlkRequest {
 public:
  // A request may have the segments and segment sizes that the configuration space announces, which
  // makes 126 * 64 KiB = 7.9 MiB of data.
  static constexpr uint32_t kSegmentsMax = kQueueSizeMax - 2;  // beside header and status
  static constexpr uint32_t kSegmentLimitBytes = 64 * 1024;
  static constexpr uint64_t kDataLimitBytes = uint64_t{kSegmentsMax} * kSegmentLimitBytes;
  static constexpr uint32_t kRangesMax = 16;              // ranges of one discard or write-zeroes
  static constexpr uint32_t kRangeSectorsMax = 1u << 22;  // 2 GiB
  static constexpr size_t kIdBytes = 20;

  explicit BlkRequest(DescriptorChain chain) : chain_(std::move(chain)) {}

  /** False when there is no room for a header or a status: the driver broke a rule. */
  bool wellFormed() const noexcept;
  /** Reads what the driver wants and pins the disk. False when guest memory cannot be loaded now;
   *  then nothing was done. */
  bool accept(const BlkTarget& target);
  /** Carries the accepted request out and stores its status. `writeThrough`: a write is durable
   *  before it is completed, because the driver does not flush. False when guest memory cannot be
   *  loaded or saved now; then it is to be executed again. */
  bool execute(const BlkTarget& target, bool writeThrough) noexcept;

  uint16_t head() const noexcept { return chain_.head; }
  /** Bytes stored in guest memory, once executed. */
  uint32_t written() const noexcept { return written_; }

  /** What it changes on the disk; nothing if it is to fail. */
  std::span<const Extent> changes() const noexcept { return changes_; }
  /** The bytes that it reads from the disk into the first of writable(); 0 bytes if none. */
  Extent reads() const noexcept;
  std::span<const Segment> writable() const noexcept { return chain_.writable; }
  /** The disk as this request sees it. */
  const std::shared_ptr<Disk>& disk() const noexcept { return disk_; }
  /** Makes all memory of the request present, and what it writes to open. False: not now. */
  bool prepareMemory(const GuestRam& ram) const noexcept;

 private:
  struct Header {
    uint32_t type;
    uint32_t reserved;
    uint64_t sector;
  };
  struct Range {
    uint64_t sector;
    uint32_t sectors;
    uint32_t flags;
  };
  static_assert(sizeof(Header) == 16 && sizeof(Range) == 16);

  enum class Outcome : uint8_t { ok = 0, ioError = 1, unsupported = 2, noMemory };
  using Step = Outcome (BlkRequest::*)(const BlkTarget&);
  struct Entry {
    uint32_t type;
    Step check;  // when it is accepted
    Step operation;
    bool changesDisk;
  };
  static const Entry kOperations[];

  Outcome run(const BlkTarget& target, bool writeThrough);
  Outcome readDisk(const BlkTarget& target);
  Outcome writeDisk(const BlkTarget& target);
  Outcome flush(const BlkTarget& target);
  Outcome getId(const BlkTarget& target);
  Outcome discard(const BlkTarget& target);
  Outcome writeZeroes(const BlkTarget& target);

  // Each fills changes_ as far as its type has some.
  Outcome check(const BlkTarget& target);
  Outcome checkNothing(const BlkTarget&) { return Outcome::ok; }
  Outcome checkRead(const BlkTarget& target);
  Outcome checkWrite(const BlkTarget& target);
  Outcome checkDiscard(const BlkTarget& target) { return checkRanges(target, 0); }
  Outcome checkWriteZeroes(const BlkTarget& target);
  Outcome checkRanges(const BlkTarget& target, uint32_t knownFlags);

  uint64_t readableData() const noexcept { return chain_.readableBytes - sizeof(Header); }
  uint64_t writableData() const noexcept { return chain_.writableBytes - 1; }

  DescriptorChain chain_;
  Header header_{};
  Outcome verdict_ = Outcome::ioError;  // of accept(); ok: to be carried out
  const Entry* entry_ = nullptr;
  std::vector<Range> ranges_;  // of a discard or write-zeroes
  std::vector<Extent> changes_;
  std::shared_ptr<Disk> disk_;
  uint32_t written_ = 0;
};

}  // namespace ckptfs
