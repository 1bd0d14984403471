// A virtio-blk device over a MemoryDisk, and a driver with a fixed place in memory for each
// request.
#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "devices/virtio/blk.h"
#include "test/devices/memory_disk.h"
#include "test/devices/virtio_driver.h"

namespace ckptfs {

enum class BlkType : uint32_t { in = 0, out = 1, flush = 4, getId = 8, discard = 11, zeroes = 13 };

/** A driver of virtio-blk. The data of each slot is a memory block of its own. */
class BlkDriver : public TestDriver {
 public:
  static constexpr unsigned kSlots = 40;  // three descriptors each
  static constexpr uint64_t kDataBytes = 0x8000;
  static constexpr uint8_t kNoStatus = 0xee;

  using TestDriver::TestDriver;

  static uint64_t header(unsigned slot) { return kRamBase + 0x4000 + slot * 32; }
  static uint64_t status(unsigned slot) { return header(slot) + 16; }
  static uint64_t data(unsigned slot) { return kRamBase + 0x10000 + slot * kDataBytes; }
  uint8_t result(unsigned slot) { return fetch<uint8_t>(status(slot)); }

  using TestDriver::offer;
  /** Writes the descriptors of a request and makes it available without notifying. */
  void offer(unsigned slot, BlkType type, uint64_t sector, uint32_t length) {
    put(header(slot), uint64_t{uint32_t(type)});
    put(header(slot) + 8, sector);
    put(status(slot), kNoStatus);
    const auto first = uint16_t(slot * 3);
    const bool input = type == BlkType::in || type == BlkType::getId;
    describe(first, header(slot), 16, kNext, uint16_t(length ? first + 1 : first + 2));
    describe(first + 1, data(slot), length, kNext | (input ? kWrite : 0), first + 2);
    describe(first + 2, status(slot), 1, kWrite);
    offer(first);
  }
};

struct BlkRig {
  static constexpr uint64_t kRamBytes = 4 << 20;
  static constexpr uint64_t kDiskBytes = 1 << 20;
  static constexpr unsigned kSlots = BlkDriver::kSlots;
  static constexpr uint64_t kDataBytes = BlkDriver::kDataBytes;
  static constexpr uint8_t kNoStatus = BlkDriver::kNoStatus;

  explicit BlkRig(bool readOnly = false, unsigned workers = 3)
      : disk(kDiskBytes, readOnly), pool(workers, "test-io") {}

  GuestMemory memory{kRamBytes, Geometry{}};
  GuestRam ram{memory, TestDriver::kRamBase};
  TestLine line;
  MemoryDisk disk;
  std::atomic<int> failures{0};
  WorkerPool pool;
  VirtioBlk blk{disk, "vda", ram, line.input(), pool, [this](const Error&) { ++failures; }};
  BlkDriver driver{blk, memory};

  static uint64_t header(unsigned slot) { return BlkDriver::header(slot); }
  static uint64_t status(unsigned slot) { return BlkDriver::status(slot); }
  static uint64_t data(unsigned slot) { return BlkDriver::data(slot); }
  uint8_t result(unsigned slot) { return driver.result(slot); }
  void offer(unsigned slot, BlkType type, uint64_t sector, uint32_t length) {
    driver.offer(slot, type, sector, length);
  }
  /** A request from beginning to end: its status. */
  uint8_t request(BlkType type, uint64_t sector, uint32_t length) {
    offer(0, type, sector, length);
    driver.kick();
    lastUsed = driver.await(line);
    return result(0);
  }
  void range(unsigned index, uint64_t sector, uint32_t sectors, uint32_t flags) {
    driver.put(data(0) + index * 16, sector);
    driver.put(data(0) + index * 16 + 8, sectors);
    driver.put(data(0) + index * 16 + 12, flags);
  }
  TestDriver::Used lastUsed{};
};

}  // namespace ckptfs
