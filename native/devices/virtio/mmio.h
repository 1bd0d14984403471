// The virtio-mmio transport, version 2 (virtio 1.2, section 4.2): what all virtio devices share.
//
// A device derives from VirtioMmio and implements process(), which looks at a queue. It may take
// requests out of the queue and return them later from other threads ("in flight").
//
// Checkpoints: hold() stops the taking of requests while the guest goes on and may queue more. What
// is in flight then is either waited for (waitDrained), before the pause, so that no disk flush is
// ever inside it; or it goes on across the pause (requirement A14). stop(), in the pause, also
// stops the completing of requests: from then on the device changes neither its state nor its
// rings, so that these and guest memory are of one moment. The state of a device with requests in
// flight says that they were taken and not returned, and names them; a restored one carries them
// out again. freeze() is a plain copy. release() ends both and looks at the queues again, so that
// no notification is lost. A thawed device is held and stopped: the machine calls release() when it
// starts.
//
// Memory that cannot be loaded or saved (GuestRam) never turns into bad data: a chain that cannot
// be read stays in its queue, a request that cannot go on stays in flight, and retry() tries both
// again.
//
// The mutex guards VirtioState, the rings and what the derived device keeps of requests. Register
// accesses come from vCPU threads. The interrupt line is driven with the mutex held. A reset, and
// stopping a queue, wait on the vCPU thread until nothing is in flight, because the driver may
// reuse the memory as soon as its write returns.
#pragma once

#include <chrono>
#include <cstdint>
#include <mutex>
#include <span>
#include <vector>

#include "devices/bus.h"
#include "devices/guest_ram.h"
#include "devices/virtio/queue.h"

namespace ckptfs {

/** What a checkpoint keeps of any virtio device. */
struct VirtioState {
  uint32_t deviceId = 0;
  uint32_t status = 0;           // device status register
  uint32_t interruptStatus = 0;  // bit 0: used buffers, bit 1: configuration change
  uint32_t deviceFeaturesSelect = 0;
  uint32_t driverFeaturesSelect = 0;
  uint32_t queueSelect = 0;
  uint64_t driverFeatures = 0;
  std::vector<QueueState> queues;
  bool operator==(const VirtioState&) const = default;
};

void to_json(Json& json, const VirtioState& state);
/** Throws Error(damaged). */
void from_json(const Json& json, VirtioState& state);

/** What kind of device stands behind the transport. */
struct VirtioTraits {
  uint32_t deviceId = 0;
  uint64_t features = 0;  // of the device type; the transport adds its own
  unsigned queues = 1;
};

class VirtioMmio : public MmioDevice {
 public:
  static constexpr unsigned kQueuesMax = 8;

  uint64_t read(uint64_t offset, unsigned size) noexcept final;
  void write(uint64_t offset, unsigned size, uint64_t value) noexcept final;

  /** Takes no new requests from now on; the guest may queue more. From any thread. */
  void hold();
  /** Completes nothing from now on: the device stands still. In the pause, after hold(). */
  void stop();
  /** Completes and takes requests again, beginning with those that wait in the queues. */
  void release();
  /** Goes on with what memory failures stopped; after GuestMemory::retryFailed(). */
  void retry();
  /** True when no request is in flight. Stays true while held. */
  bool drained() const;
  /** Waits until drained; false after `timeout`, or as soon as all that is left in flight waits for
   *  memory (see retry()). For a held device. */
  virtual bool waitDrained(std::chrono::milliseconds timeout);

 protected:
  using Lock = std::unique_lock<std::mutex>;

  VirtioMmio(const VirtioTraits& traits, const GuestRam& ram, InterruptLine line);

  // To implement; all are called with the mutex held.
  /** Carries out or takes what is available. Called only while the queue may run. */
  virtual void process(unsigned queue) noexcept = 0;
  virtual bool idle() const noexcept { return true; }
  /** Goes on with requests in flight that wait for memory or for the end of a stop. */
  virtual void resume() noexcept {}
  /** Returns once nothing is in flight, dropping what waits for memory; may unlock meanwhile. */
  virtual void settle(Lock&) noexcept {}
  /** The device's configuration space; does not change while the machine lives. */
  virtual std::span<const std::byte> config() const noexcept { return {}; }

  // To use; with the mutex held.
  VirtQueue queue(unsigned index) noexcept { return {ram_, virtio_.queues[index]}; }
  /** process(index) if the device runs and is not held. */
  void look(unsigned index) noexcept;
  bool negotiated(uint64_t feature) const noexcept;
  VirtQueue::Peek peek(unsigned index, DescriptorChain& chain) noexcept;
  /** Reads a chain that was taken before the state was saved. */
  VirtQueue::Peek chainAt(unsigned index, uint16_t head, DescriptorChain& chain) noexcept;
  /** Returns a chain and interrupts the driver; false when the ring cannot be written now. */
  bool push(unsigned index, uint16_t head, uint32_t written) noexcept;
  /** The driver broke a rule: nothing is taken any more until it resets the device. */
  void needReset() noexcept;
  bool stopped() const noexcept { return stopped_; }
  /** The State; throws Error(busy) unless the device is drained or stopped. */
  const VirtioState& stillState() const;
  /** Takes over a State that was read from a checkpoint, and holds and stops the device. Requests
   *  of `inFlight` number were taken from queue 0 and not returned. Throws Error(damaged), with
   *  nothing changed, if it does not fit the device or its memory. */
  void adopt(VirtioState state, size_t inFlight = 0);

  mutable std::mutex mutex_;
  const GuestRam ram_;

 private:
  uint32_t readRegister(uint64_t offset) const noexcept;
  void writeRegister(Lock& lock, uint64_t offset, uint32_t value) noexcept;
  void writeStatus(Lock& lock, uint32_t value) noexcept;
  void writeQueueRegister(Lock& lock, uint64_t offset, uint32_t value) noexcept;
  void writeQueueReady(Lock& lock, bool ready) noexcept;
  void settleGuarded(Lock& lock) noexcept;
  void raise(uint32_t interrupt) noexcept;
  void drive() noexcept;
  VirtioState initialState() const;

  const VirtioTraits traits_;
  const InterruptLine line_;
  VirtioState virtio_;
  bool held_ = false;
  bool stopped_ = false;
  unsigned settling_ = 0;  // register writes that wait for requests in flight
};

}  // namespace ckptfs
