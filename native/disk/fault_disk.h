// A disk that misbehaves on request: it holds requests back, slows them down, fails or cuts them.
//
// FaultDisk stands in front of another Disk and asks its Faults before each request. Faults may be
// shared by several disks, and is what a test steers while requests are under way. A pin of a
// FaultDisk stands in front of a pin of the other disk: so a request that is held back here across
// a checkpoint is in flight for the layers of before (requirement A8).
//
// Any thread may call any member at any time; the mutex of Faults guards its rules, and no request
// runs with it held.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>

#include "disk/disk.h"

namespace ckptfs {

class Faults {
 public:
  /** Kinds of requests, to be combined; write-zeroes and discard count as writes. */
  enum Kinds : unsigned { kRead = 1, kWrite = 2, kFlush = 4, kAll = 7 };
  static constexpr Extent kEverywhere{0, uint64_t{1} << 62};

  /** Holds back requests of `kinds` that meet `where` (a flush meets everything) until open() is
   *  called with the number that this returns. */
  unsigned close(unsigned kinds, Extent where = kEverywhere);
  void open(unsigned gate);
  void openAll();
  /** True once `count` requests are held back by the gate at the same time; false after `timeout`.
   */
  bool awaitHeld(unsigned gate, unsigned count, std::chrono::milliseconds timeout);

  /** Makes every request take longer by so much. */
  void delay(std::chrono::milliseconds delay);
  /** The next `count` requests of `kinds`, after `skip` ones, fail with Error(io); cut: a read or
   *  write deals with its first half (in sectors) before. */
  void fail(unsigned kinds, uint64_t skip, uint64_t count, bool cut = false);

 private:
  friend class FaultDisk;
  enum class Fate : uint8_t { good, bad, cut };

  /** Returns when and how the request is to go on. */
  Fate enter(Kinds kind, Extent where);

  struct Gate {
    unsigned number;
    unsigned kinds;
    Extent where;
    unsigned held = 0;
  };
  struct Failure {
    unsigned kinds = 0;
    uint64_t skip = 0;
    uint64_t count = 0;
    bool cut = false;
  };

  std::mutex mutex_;
  std::condition_variable changed_;
  unsigned next_ = 0;
  std::list<Gate> gates_;
  Failure failure_;
  std::chrono::milliseconds delay_{0};
};

class FaultDisk final : public Disk {
 public:
  FaultDisk(std::shared_ptr<Disk> disk, std::shared_ptr<Faults> faults)
      : disk_(std::move(disk)), faults_(std::move(faults)) {}

  uint64_t bytes() const noexcept override { return disk_->bytes(); }
  bool readOnly() const noexcept override { return disk_->readOnly(); }
  void read(uint64_t offset, std::span<std::byte> into) override;
  void writev(uint64_t offset, Buffers from) override;
  void flush() override;
  void writeZeroes(uint64_t offset, uint64_t length, bool unmap) override;
  void discard(uint64_t offset, uint64_t length) override;
  std::shared_ptr<Disk> pin(std::span<const Extent> changes) override;

 private:
  /** Throws Error(io) if the request is to fail; else the bytes of `length` to deal with first. */
  uint64_t enter(Faults::Kinds kind, uint64_t offset, uint64_t length);

  const std::shared_ptr<Disk> disk_;
  const std::shared_ptr<Faults> faults_;
};

}  // namespace ckptfs
