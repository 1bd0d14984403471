// A split virtqueue (virtio 1.2, section 2.7): descriptor chains out, used elements in.
//
// Everything in the rings comes from the guest and is copied before it is checked: ring indices,
// heads, links, lengths and addresses. A queue that breaks a rule is "broken", and its device then
// needs a reset. Notifications are never suppressed by the device, so that no lost wake-up is
// possible; the driver may suppress interrupts. Used indices are published with (at least) release
// order, and available indices are read with acquire order.
//
// No lock of its own: the device's mutex guards the QueueState and the rings.
#pragma once

#include <cstdint>
#include <vector>

#include "base/json.h"
#include "devices/guest_ram.h"
#include "devices/virtio/segments.h"

namespace ckptfs {

/** The most descriptors of a queue, and so of a chain, an indirect table, and requests in flight.
 */
inline constexpr uint16_t kQueueSizeMax = 128;

struct QueueState {
  uint16_t size = 0;  // descriptors, as the driver chose; a power of two once ready
  bool ready = false;
  uint64_t descriptors = 0;  // guest-physical addresses of the descriptor table,
  uint64_t available = 0;    // the ring that the driver writes,
  uint64_t used = 0;         // and the ring that the device writes
  uint16_t nextAvailable = 0;
  uint16_t nextUsed = 0;
  bool operator==(const QueueState&) const = default;
};

void to_json(Json& json, const QueueState& state);
/** Throws Error(damaged). */
void from_json(const Json& json, QueueState& state);

/** One request of the driver: what the device may read, then what it may write. */
struct DescriptorChain {
  uint16_t head = 0;
  std::vector<Segment> readable;
  std::vector<Segment> writable;
  uint64_t readableBytes = 0;
  uint64_t writableBytes = 0;
};

/** A view that joins a queue's State with the memory that its rings are in. */
class VirtQueue {
 public:
  enum class Peek : uint8_t {
    empty,        // nothing is available
    chain,        // the next chain was read
    broken,       // the driver broke a rule
    unavailable,  // ring memory cannot be loaded now: look again later
  };

  VirtQueue(const GuestRam& ram, QueueState& state) noexcept : ram_(ram), state_(state) {}

  /** True when the size is a power of two up to kQueueSizeMax, and the rings are aligned and in
   * RAM. */
  bool valid() const noexcept;
  /** Reads the next available chain and leaves it there; `indirect` if tables were negotiated. */
  Peek peek(bool indirect, DescriptorChain& chain) const;
  /** Reads the chain at `head`, which the device took before; never Peek::empty. */
  Peek chainAt(uint16_t head, bool indirect, DescriptorChain& chain) const;
  /** Consumes the chain that peek() read. */
  void take() noexcept { ++state_.nextAvailable; }
  /** Returns a chain to the driver with `written` bytes stored in it. False when the ring cannot be
   *  written now; then nothing happened. */
  bool push(uint16_t head, uint32_t written) noexcept;
  /** Whether the driver wants an interrupt for what was pushed. */
  bool wantsInterrupt() const noexcept;

 private:
  const GuestRam& ram_;
  QueueState& state_;
};

}  // namespace ckptfs
