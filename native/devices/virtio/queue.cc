#include "devices/virtio/queue.h"

#include <atomic>
#include <bit>
#include <cstring>
#include <nlohmann/json.hpp>

#include "devices/state_fields.h"

namespace ckptfs {
namespace {

static_assert(std::endian::native == std::endian::little, "ring fields are little-endian");

// Descriptor flags, and the flag of the available ring.
constexpr uint16_t kNext = 1;
constexpr uint16_t kWrite = 2;
constexpr uint16_t kIndirect = 4;
constexpr uint16_t kNoInterrupt = 1;

struct Descriptor {
  uint64_t address;
  uint32_t length;
  uint16_t flags;
  uint16_t next;
};
static_assert(sizeof(Descriptor) == 16);

struct UsedElement {
  uint32_t id;
  uint32_t length;
};
static_assert(sizeof(UsedElement) == 8);

// Both rings: flags and index, then the elements, then an event index that is not used here.
constexpr uint64_t kIndexAt = 2;
constexpr uint64_t kElementsAt = 4;

uint64_t tableBytes(uint16_t size) {
  return uint64_t{size} * sizeof(Descriptor);
}
uint64_t availableBytes(uint16_t size) {
  return kElementsAt + uint64_t{size} * sizeof(uint16_t);
}
uint64_t usedBytes(uint16_t size) {
  return kElementsAt + uint64_t{size} * sizeof(UsedElement);
}

template <class T>
T copyOf(std::span<const std::byte> bytes, uint64_t offset) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

/** A ring field that the guest changes meanwhile; valid() has seen to its alignment. */
std::atomic_ref<uint16_t> sharedField(const std::byte* at) {
  return std::atomic_ref<uint16_t>(*reinterpret_cast<uint16_t*>(const_cast<std::byte*>(at)));
}

/** Adds one data descriptor; false when it is not RAM or is readable after a writable one. */
bool append(const GuestRam& ram, const Descriptor& descriptor, DescriptorChain& chain) {
  if (!ram.contains(descriptor.address, descriptor.length)) return false;
  const Segment segment{descriptor.address, descriptor.length};
  if (descriptor.flags & kWrite) {
    chain.writable.push_back(segment);
    chain.writableBytes += segment.length;
  } else {
    if (!chain.writable.empty()) return false;
    chain.readable.push_back(segment);
    chain.readableBytes += segment.length;
  }
  return true;
}

/** Walks the links in a table of `count` descriptors from `index`; `indirect` receives a descriptor
 *  that refers to another table, or is null where none may stand. A walk that is longer than the
 *  table is a loop. False when the driver broke a rule. */
bool walk(const GuestRam& ram, std::span<const std::byte> table, uint32_t count, uint32_t index,
          DescriptorChain& chain, Descriptor* indirect) {
  for (uint32_t steps = 0; steps < count; ++steps) {
    if (index >= count) return false;
    const auto descriptor = copyOf<Descriptor>(table, index * sizeof(Descriptor));
    if (descriptor.flags & kIndirect) {
      if (!indirect || (descriptor.flags & kNext)) return false;
      *indirect = descriptor;
      return true;
    }
    if (!append(ram, descriptor, chain)) return false;
    if (!(descriptor.flags & kNext)) return true;
    index = descriptor.next;
  }
  return false;
}

}  // namespace

bool VirtQueue::valid() const noexcept {
  return std::has_single_bit(state_.size) && state_.size <= kQueueSizeMax &&
         state_.descriptors % 16 == 0 && state_.available % 2 == 0 && state_.used % 4 == 0 &&
         ram_.contains(state_.descriptors, tableBytes(state_.size)) &&
         ram_.contains(state_.available, availableBytes(state_.size)) &&
         ram_.contains(state_.used, usedBytes(state_.size));
}

VirtQueue::Peek VirtQueue::peek(bool indirectAllowed, DescriptorChain& chain) const {
  const auto ring = ram_.readable(state_.available, availableBytes(state_.size));
  if (ring.empty()) return Peek::unavailable;
  const uint16_t index = sharedField(ring.data() + kIndexAt).load(std::memory_order_acquire);
  const auto waiting = uint16_t(index - state_.nextAvailable);
  if (waiting == 0) return Peek::empty;
  if (waiting > state_.size) return Peek::broken;

  const uint64_t slot = state_.nextAvailable % state_.size;
  return chainAt(copyOf<uint16_t>(ring, kElementsAt + slot * sizeof(uint16_t)), indirectAllowed,
                 chain);
}

VirtQueue::Peek VirtQueue::chainAt(uint16_t head, bool indirectAllowed,
                                   DescriptorChain& chain) const {
  chain = DescriptorChain{};
  chain.head = head;
  const auto table = ram_.readable(state_.descriptors, tableBytes(state_.size));
  if (table.empty()) return Peek::unavailable;

  Descriptor indirect{};
  if (!walk(ram_, table, state_.size, chain.head, chain, indirectAllowed ? &indirect : nullptr))
    return Peek::broken;
  if (!(indirect.flags & kIndirect)) return Peek::chain;

  const uint32_t bytes = indirect.length;
  if (bytes == 0 || bytes % sizeof(Descriptor) != 0 || bytes > tableBytes(kQueueSizeMax) ||
      !ram_.contains(indirect.address, bytes))
    return Peek::broken;
  const auto inner = ram_.readable(indirect.address, bytes);
  if (inner.empty()) return Peek::unavailable;
  return walk(ram_, inner, bytes / sizeof(Descriptor), 0, chain, nullptr) ? Peek::chain
                                                                          : Peek::broken;
}

bool VirtQueue::push(uint16_t head, uint32_t written) noexcept {
  const auto ring = ram_.writable(state_.used, usedBytes(state_.size));
  if (ring.empty()) return false;
  const UsedElement element{head, written};
  const uint64_t slot = state_.nextUsed % state_.size;
  std::memcpy(ring.data() + kElementsAt + slot * sizeof element, &element, sizeof element);
  sharedField(ring.data() + kIndexAt).store(++state_.nextUsed, std::memory_order_seq_cst);
  return true;
}

bool VirtQueue::wantsInterrupt() const noexcept {
  // The driver clears the flag, then looks at the used index; the device stores the used index,
  // then looks at the flag. Both are sequentially consistent, so one of the two sees the other
  // (2.7.7).
  const auto flags = ram_.readable(state_.available, sizeof(uint16_t));
  return flags.empty() ||
         !(sharedField(flags.data()).load(std::memory_order_seq_cst) & kNoInterrupt);
}

void to_json(Json& json, const QueueState& state) {
  json = Json{{"size", state.size},
              {"ready", state.ready},
              {"descriptors", toHex(state.descriptors)},
              {"available", toHex(state.available)},
              {"used", toHex(state.used)},
              {"nextAvailable", state.nextAvailable},
              {"nextUsed", state.nextUsed}};
}

void from_json(const Json& json, QueueState& state) {
  state.size = uint16_t(field::number(json, "size", UINT16_MAX));
  state.ready = field::flag(json, "ready");
  state.descriptors = field::hex(json, "descriptors");
  state.available = field::hex(json, "available");
  state.used = field::hex(json, "used");
  state.nextAvailable = uint16_t(field::number(json, "nextAvailable", UINT16_MAX));
  state.nextUsed = uint16_t(field::number(json, "nextUsed", UINT16_MAX));
}

}  // namespace ckptfs
