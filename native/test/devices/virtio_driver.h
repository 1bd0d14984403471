// A small virtio driver for tests: it programs the transport's registers and keeps real rings in
// guest memory, through the host view, with the ordering that a guest would use.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <optional>
#include <span>
#include <stdexcept>
#include <vector>

#include "devices/guest_ram.h"
#include "devices/virtio/mmio.h"
#include "memory/guest_memory.h"

namespace ckptfs {

inline constexpr std::chrono::seconds kPatience{60};  // only ever reached by a failing test

/** An interrupt line that a test waits on. */
class TestLine {
 public:
  InterruptLine input() {
    return [this](bool level) {
      const std::lock_guard lock(mutex_);
      level_ = level;
      changed_.notify_all();
    };
  }
  bool level() const {
    const std::lock_guard lock(mutex_);
    return level_;
  }
  void awaitHigh() {
    std::unique_lock lock(mutex_);
    if (!changed_.wait_for(lock, kPatience, [this] { return level_; }))
      throw std::runtime_error("no interrupt arrived");
  }

 private:
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool level_ = false;
};

namespace reg {
enum : uint64_t {
  magic = 0x0,
  version = 0x4,
  deviceId = 0x8,
  vendorId = 0xc,
  deviceFeatures = 0x10,
  deviceFeaturesSelect = 0x14,
  driverFeatures = 0x20,
  driverFeaturesSelect = 0x24,
  queueSelect = 0x30,
  queueSizeMax = 0x34,
  queueSize = 0x38,
  queueReady = 0x44,
  queueNotify = 0x50,
  interruptStatus = 0x60,
  interruptAck = 0x64,
  status = 0x70,
  descriptorsLow = 0x80,
  descriptorsHigh = 0x84,
  availableLow = 0x90,
  availableHigh = 0x94,
  usedLow = 0xa0,
  usedHigh = 0xa4,
  sharedLengthLow = 0xb0,
  generation = 0xfc,
  config = 0x100,
};
}  // namespace reg

class TestDriver {
 public:
  static constexpr uint64_t kRamBase = 0x8000'0000;
  static constexpr uint64_t kDescriptors = kRamBase;
  static constexpr uint64_t kAvailable = kRamBase + 0x1000;
  static constexpr uint64_t kUsed = kRamBase + 0x2000;
  static constexpr uint64_t kData = kRamBase + 0x8000;  // block 1 of the default geometry
  static constexpr uint16_t kNext = 1, kWrite = 2, kIndirect = 4;
  static constexpr uint64_t kVersion1 = uint64_t{1} << 32, kIndirectFeature = 1u << 28;

  struct Used {
    uint32_t id;
    uint32_t length;
  };
  struct Descriptor {
    uint64_t address;
    uint32_t length;
    uint16_t flags;
    uint16_t next;
  };

  TestDriver(MmioDevice& device, GuestMemory& memory) : device_(&device), memory_(&memory) {}

  uint32_t get(uint64_t offset) { return uint32_t(device_->read(offset, 4)); }
  void set(uint64_t offset, uint64_t value) { device_->write(offset, 4, value); }

  uint64_t offered() {
    set(reg::deviceFeaturesSelect, 0);
    const uint64_t low = get(reg::deviceFeatures);
    set(reg::deviceFeaturesSelect, 1);
    return low | uint64_t{get(reg::deviceFeatures)} << 32;
  }
  bool negotiate(uint64_t features) {
    set(reg::status, 0);
    set(reg::status, 1);
    set(reg::status, 3);
    set(reg::driverFeaturesSelect, 0);
    set(reg::driverFeatures, features & UINT32_MAX);
    set(reg::driverFeaturesSelect, 1);
    set(reg::driverFeatures, features >> 32);
    set(reg::status, 3 | 8);
    return (get(reg::status) & 8) != 0;
  }
  void setUpQueue(uint16_t size) {
    size_ = size;
    available_ = used_ = 0;
    std::memset(at(kDescriptors), 0, 0x4000);
    set(reg::queueSelect, 0);
    set(reg::queueSize, size);
    set(reg::descriptorsLow, kDescriptors & UINT32_MAX);
    set(reg::descriptorsHigh, kDescriptors >> 32);
    set(reg::availableLow, kAvailable & UINT32_MAX);
    set(reg::availableHigh, kAvailable >> 32);
    set(reg::usedLow, kUsed & UINT32_MAX);
    set(reg::usedHigh, kUsed >> 32);
    set(reg::queueReady, 1);
  }
  /** Negotiates everything that is offered but `without`, and starts with one queue. */
  void start(uint16_t size = 128, uint64_t without = 0) {
    negotiate(offered() & ~without);
    setUpQueue(size);
    set(reg::status, 3 | 8 | 4);
  }
  /** Goes on with another device that took over this one's state, and perhaps its memory. */
  void moveTo(MmioDevice& device) { device_ = &device; }
  void moveTo(MmioDevice& device, GuestMemory& memory) {
    device_ = &device;
    memory_ = &memory;
  }

  std::byte* at(uint64_t address) { return memory_->hostView() + (address - kRamBase); }
  template <class T>
  void put(uint64_t address, const T& value) {
    std::memcpy(at(address), &value, sizeof value);
  }
  template <class T>
  T fetch(uint64_t address) {
    T value;
    std::memcpy(&value, at(address), sizeof value);
    return value;
  }

  void describe(uint16_t index, uint64_t address, uint32_t length, uint16_t flags = 0,
                uint16_t next = 0, uint64_t table = kDescriptors) {
    put(table + index * sizeof(Descriptor), Descriptor{address, length, flags, next});
  }
  /** Puts a chain into the available ring without telling the device. */
  void offer(uint16_t head) {
    put(kAvailable + 4 + available_ % size_ * 2, head);
    publishAvailable(++available_);
  }
  void publishAvailable(uint16_t index) {
    shared(kAvailable + 2).store(index, std::memory_order_seq_cst);
  }
  void kick() { set(reg::queueNotify, 0); }

  uint16_t usedIndex() { return shared(kUsed + 2).load(std::memory_order_acquire); }
  std::optional<Used> poll() {
    if (usedIndex() == used_) return std::nullopt;
    return fetch<Used>(kUsed + 4 + used_++ % size_ * 8);
  }
  /** Waits for the next used element as an interrupt handler would. */
  Used await(TestLine& line) {
    for (;;) {
      if (const auto used = poll()) return *used;
      line.awaitHigh();
      set(reg::interruptAck, get(reg::interruptStatus));
    }
  }
  static BlockId blockOf(uint64_t address) { return Geometry{}.blockOf(address - kRamBase); }
  bool needsReset() { return (get(reg::status) & 64) != 0; }

 private:
  std::atomic_ref<uint16_t> shared(uint64_t address) {
    return std::atomic_ref<uint16_t>(*reinterpret_cast<uint16_t*>(at(address)));
  }

  MmioDevice* device_;
  GuestMemory* memory_;
  uint16_t size_ = 0;
  uint16_t available_ = 0;
  uint16_t used_ = 0;
};

/** A trace client that fails for one block until it is allowed. It saves nothing (write traces), or
 *  loads blocks from an image of RAM (access traces). */
class FailingClient final : public TraceClient {
 public:
  FailingClient(GuestMemory& memory, BlockId failing, std::vector<std::byte> image = {})
      : memory_(memory), failing_(failing), image_(std::move(image)) {}
  bool handle(BlockId block, Cause) noexcept override {
    if (block == failing_ && !allowed) return false;
    const Geometry& geometry = memory_.geometry();
    const uint64_t offset = geometry.offsetOf(block);
    if (!image_.empty())
      std::memcpy(memory_.hostView() + offset, image_.data() + offset, geometry.blockBytes());
    return true;
  }
  std::atomic<bool> allowed{false};

 private:
  GuestMemory& memory_;
  const BlockId failing_;
  const std::vector<std::byte> image_;
};

}  // namespace ckptfs
