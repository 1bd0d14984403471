#include "devices/virtio/mmio.h"

#include <cstring>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "devices/state_fields.h"

namespace ckptfs {
namespace {

enum Register : uint64_t {
  kMagic = 0x000,
  kVersion = 0x004,
  kDeviceId = 0x008,
  kVendorId = 0x00c,
  kDeviceFeatures = 0x010,
  kDeviceFeaturesSelect = 0x014,
  kDriverFeatures = 0x020,
  kDriverFeaturesSelect = 0x024,
  kQueueSelect = 0x030,
  kQueueSizeMaximum = 0x034,
  kQueueSize = 0x038,
  kQueueReady = 0x044,
  kQueueNotify = 0x050,
  kInterruptStatus = 0x060,
  kInterruptAck = 0x064,
  kStatus = 0x070,
  kQueueDescriptorsLow = 0x080,
  kQueueDescriptorsHigh = 0x084,
  kQueueAvailableLow = 0x090,
  kQueueAvailableHigh = 0x094,
  kQueueUsedLow = 0x0a0,
  kQueueUsedHigh = 0x0a4,
  kSharedMemoryFirst = 0x0b0,  // length and base of a shared memory region, low and high
  kSharedMemoryLast = 0x0bc,
  kConfigGeneration = 0x0fc,
  kConfig = 0x100,
};

constexpr uint32_t kMagicValue = 0x74726976;   // "virt"
constexpr uint32_t kVendorValue = 0x46504b43;  // "CKPF"

// Device status.
constexpr uint32_t kAcknowledge = 1;
constexpr uint32_t kDriver = 2;
constexpr uint32_t kDriverOk = 4;
constexpr uint32_t kFeaturesOk = 8;
constexpr uint32_t kNeedsReset = 64;
constexpr uint32_t kFailed = 128;
constexpr uint32_t kDriverBits = kAcknowledge | kDriver | kDriverOk | kFeaturesOk | kFailed;

constexpr uint32_t kUsedInterrupt = 1;
constexpr uint32_t kConfigInterrupt = 2;

constexpr uint64_t kIndirectFeature = uint64_t{1} << 28;
constexpr uint64_t kVersion1Feature = uint64_t{1} << 32;

uint64_t withLow(uint64_t value, uint32_t low) {
  return (value & ~uint64_t{UINT32_MAX}) | low;
}
uint64_t withHigh(uint64_t value, uint32_t high) {
  return (value & UINT32_MAX) | uint64_t{high} << 32;
}

VirtioTraits withTransport(VirtioTraits traits) {
  traits.features |= kVersion1Feature | kIndirectFeature;
  return traits;
}

bool acceptable(uint64_t driverFeatures, uint64_t offered) {
  return (driverFeatures & ~offered) == 0 && (driverFeatures & kVersion1Feature) != 0;
}

}  // namespace

VirtioMmio::VirtioMmio(const VirtioTraits& traits, const GuestRam& ram, InterruptLine line)
    : ram_(ram), traits_(withTransport(traits)), line_(std::move(line)), virtio_(initialState()) {}

VirtioState VirtioMmio::initialState() const {
  VirtioState state;
  state.deviceId = traits_.deviceId;
  state.queues.resize(traits_.queues);
  return state;
}

// ---- Registers ----

uint64_t VirtioMmio::read(uint64_t offset, unsigned size) noexcept {
  const Lock lock(mutex_);
  if (offset < kConfig) return size == 4 && offset % 4 == 0 ? readRegister(offset) : 0;
  const auto bytes = config();
  const uint64_t at = offset - kConfig;
  uint64_t value = 0;
  if (size <= sizeof value && at < bytes.size() && size <= bytes.size() - at)
    std::memcpy(&value, bytes.data() + at, size);
  return value;
}

uint32_t VirtioMmio::readRegister(uint64_t offset) const noexcept {
  const bool selected = virtio_.queueSelect < virtio_.queues.size();
  switch (offset) {
    case kMagic:
      return kMagicValue;
    case kVersion:
      return 2;
    case kDeviceId:
      return traits_.deviceId;
    case kVendorId:
      return kVendorValue;
    case kDeviceFeatures: {
      const uint32_t select = virtio_.deviceFeaturesSelect;
      return select < 2 ? uint32_t(traits_.features >> (32 * select)) : 0;
    }
    case kQueueSizeMaximum:
      return selected ? kQueueSizeMax : 0;
    case kQueueReady:
      return selected && virtio_.queues[virtio_.queueSelect].ready;
    case kInterruptStatus:
      return virtio_.interruptStatus;
    case kStatus:
      return virtio_.status;
    case kConfigGeneration:
      return 0;  // the configuration never changes
    default:
      // All ones: the selected shared memory region does not exist.
      return offset >= kSharedMemoryFirst && offset <= kSharedMemoryLast ? UINT32_MAX : 0;
  }
}

void VirtioMmio::write(uint64_t offset, unsigned size, uint64_t value) noexcept {
  if (size != 4 || offset % 4 != 0) return;
  Lock lock(mutex_);
  writeRegister(lock, offset, uint32_t(value));
}

void VirtioMmio::writeRegister(Lock& lock, uint64_t offset, uint32_t value) noexcept {
  switch (offset) {
    case kDeviceFeaturesSelect:
      virtio_.deviceFeaturesSelect = value;
      break;
    case kDriverFeaturesSelect:
      virtio_.driverFeaturesSelect = value;
      break;
    case kDriverFeatures:
      if (virtio_.status & kFeaturesOk) break;  // settled
      if (virtio_.driverFeaturesSelect == 0)
        virtio_.driverFeatures = withLow(virtio_.driverFeatures, value);
      else if (virtio_.driverFeaturesSelect == 1)
        virtio_.driverFeatures = withHigh(virtio_.driverFeatures, value);
      break;
    case kQueueSelect:
      virtio_.queueSelect = value;
      break;
    case kQueueNotify:
      if (value < virtio_.queues.size()) look(value);
      break;
    case kInterruptAck:
      virtio_.interruptStatus &= ~value;
      drive();
      break;
    case kStatus:
      writeStatus(lock, value);
      break;
    default:
      writeQueueRegister(lock, offset, value);
      break;
  }
}

void VirtioMmio::writeStatus(Lock& lock, uint32_t value) noexcept {
  if (value == 0) {
    settleGuarded(lock);
    virtio_ = initialState();
    drive();
    return;
  }
  uint32_t added = value & kDriverBits;
  if ((added & kFeaturesOk) && !acceptable(virtio_.driverFeatures, traits_.features))
    added &= ~kFeaturesOk;
  if (!((virtio_.status | added) & kFeaturesOk)) added &= ~kDriverOk;
  virtio_.status |= added;
}

void VirtioMmio::writeQueueRegister(Lock& lock, uint64_t offset, uint32_t value) noexcept {
  if (virtio_.queueSelect >= virtio_.queues.size()) return;
  QueueState& queue = virtio_.queues[virtio_.queueSelect];
  if (offset == kQueueReady) return writeQueueReady(lock, value & 1);
  if (queue.ready) return;  // its layout is settled
  switch (offset) {
    case kQueueSize:
      // Too large a value must not become an acceptable one by losing its upper half.
      queue.size = value <= kQueueSizeMax ? uint16_t(value) : 0;
      break;
    case kQueueDescriptorsLow:
      queue.descriptors = withLow(queue.descriptors, value);
      break;
    case kQueueDescriptorsHigh:
      queue.descriptors = withHigh(queue.descriptors, value);
      break;
    case kQueueAvailableLow:
      queue.available = withLow(queue.available, value);
      break;
    case kQueueAvailableHigh:
      queue.available = withHigh(queue.available, value);
      break;
    case kQueueUsedLow:
      queue.used = withLow(queue.used, value);
      break;
    case kQueueUsedHigh:
      queue.used = withHigh(queue.used, value);
      break;
    default:
      break;
  }
}

void VirtioMmio::writeQueueReady(Lock& lock, bool ready) noexcept {
  const uint32_t index = virtio_.queueSelect;
  if (virtio_.queues[index].ready == ready) return;
  if (!ready) settleGuarded(lock);
  QueueState& state = virtio_.queues[index];
  state.nextAvailable = 0;
  state.nextUsed = 0;
  state.ready = ready && queue(index).valid();
  if (ready && !state.ready) needReset();
}

void VirtioMmio::settleGuarded(Lock& lock) noexcept {
  ++settling_;  // the lock is open while settle() waits: another vCPU must not start new requests
  settle(lock);
  --settling_;
}

// ---- Running ----

void VirtioMmio::look(unsigned index) noexcept {
  const bool running = (virtio_.status & (kDriverOk | kNeedsReset)) == kDriverOk;
  if (running && !held_ && settling_ == 0 && virtio_.queues[index].ready) process(index);
}

bool VirtioMmio::negotiated(uint64_t feature) const noexcept {
  return (virtio_.driverFeatures & feature) != 0;
}

VirtQueue::Peek VirtioMmio::peek(unsigned index, DescriptorChain& chain) noexcept {
  return queue(index).peek(negotiated(kIndirectFeature), chain);
}

VirtQueue::Peek VirtioMmio::chainAt(unsigned index, uint16_t head,
                                    DescriptorChain& chain) noexcept {
  return queue(index).chainAt(head, negotiated(kIndirectFeature), chain);
}

bool VirtioMmio::push(unsigned index, uint16_t head, uint32_t written) noexcept {
  if (!queue(index).push(head, written)) return false;
  if (queue(index).wantsInterrupt()) raise(kUsedInterrupt);
  return true;
}

void VirtioMmio::needReset() noexcept {
  virtio_.status |= kNeedsReset;
  if (virtio_.status & kDriverOk) raise(kConfigInterrupt);
}

void VirtioMmio::raise(uint32_t interrupt) noexcept {
  virtio_.interruptStatus |= interrupt;
  drive();
}

void VirtioMmio::drive() noexcept {
  line_(virtio_.interruptStatus != 0);
}

void VirtioMmio::hold() {
  const Lock lock(mutex_);
  held_ = true;
}

void VirtioMmio::stop() {
  const Lock lock(mutex_);
  stopped_ = true;
}

void VirtioMmio::release() {
  const Lock lock(mutex_);
  held_ = false;
  stopped_ = false;
  resume();
  for (unsigned i = 0; i < virtio_.queues.size(); ++i) look(i);
}

void VirtioMmio::retry() {
  const Lock lock(mutex_);
  resume();
  for (unsigned i = 0; i < virtio_.queues.size(); ++i) look(i);
}

bool VirtioMmio::drained() const {
  const Lock lock(mutex_);
  return idle();
}

bool VirtioMmio::waitDrained(std::chrono::milliseconds) {
  return drained();
}

// ---- State ----

const VirtioState& VirtioMmio::stillState() const {
  if (!idle() && !stopped_)
    throw Error(Code::busy, "a virtio device has requests in flight; drain or stop it first");
  return virtio_;
}

void VirtioMmio::adopt(VirtioState state, size_t inFlight) {
  const auto require = [](bool ok, const char* what) {
    if (!ok) throw Error(Code::damaged, std::string("virtio device state: ") + what);
  };
  require(state.deviceId == traits_.deviceId, "it belongs to another kind of device");
  require(state.queues.size() == traits_.queues, "the number of queues does not fit the device");
  require(!(state.status & kFeaturesOk) || acceptable(state.driverFeatures, traits_.features),
          "features were negotiated that this device does not offer");
  require(!(state.status & kDriverOk) || (state.status & kFeaturesOk),
          "the driver runs without negotiated features");
  for (QueueState& queue : state.queues) {
    const size_t taken = &queue == &state.queues.front() ? inFlight : 0;
    require(queue.ready || taken == 0, "requests are in flight from a queue that is not ready");
    if (!queue.ready) continue;
    require(VirtQueue(ram_, queue).valid(), "a queue has a bad size or is not in guest memory");
    require(uint16_t(queue.nextAvailable - queue.nextUsed) == taken,
            "a queue's requests in flight are not those that were saved");
  }
  require(idle(), "the device has requests in flight");
  virtio_ = std::move(state);
  held_ = stopped_ = true;
  drive();
}

void to_json(Json& json, const VirtioState& state) {
  json = Json{{"deviceId", state.deviceId},
              {"status", state.status},
              {"interruptStatus", state.interruptStatus},
              {"deviceFeaturesSelect", state.deviceFeaturesSelect},
              {"driverFeaturesSelect", state.driverFeaturesSelect},
              {"queueSelect", state.queueSelect},
              {"driverFeatures", toHex(state.driverFeatures)},
              {"queues", state.queues}};
}

void from_json(const Json& json, VirtioState& state) {
  state.deviceId = uint32_t(field::number(json, "deviceId", UINT32_MAX));
  state.status = uint32_t(field::number(json, "status", kDriverBits | kNeedsReset));
  if (state.status & ~(kDriverBits | kNeedsReset))
    throw Error(Code::damaged, "virtio device state: \"status\" has bits that do not exist");
  state.interruptStatus =
      uint32_t(field::number(json, "interruptStatus", kUsedInterrupt | kConfigInterrupt));
  state.deviceFeaturesSelect = uint32_t(field::number(json, "deviceFeaturesSelect", UINT32_MAX));
  state.driverFeaturesSelect = uint32_t(field::number(json, "driverFeaturesSelect", UINT32_MAX));
  state.queueSelect = uint32_t(field::number(json, "queueSelect", UINT32_MAX));
  state.driverFeatures = field::hex(json, "driverFeatures");
  state.queues.clear();
  for (const Json& queue : field::list(json, "queues", VirtioMmio::kQueuesMax))
    from_json(queue, state.queues.emplace_back());
}

}  // namespace ckptfs
