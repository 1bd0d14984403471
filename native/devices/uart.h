// The console's serial port: a 16550A (National Semiconductor PC16550D) without a wire.
//
// A transmitted byte leaves at once, so the transmitter is always empty, and the line has no
// errors. Received bytes wait in one queue whose first 16 (or first one, with FIFOs off) are the
// guest's receive FIFO; the rest is a backlog, so that a guest that does not read loses nothing.
// Bytes in the FIFO are lost only when the guest clears it. What is below the trigger level is
// reported as a character timeout immediately, since no further byte need be waited for.
//
// The mutex guards State. The interrupt line is driven with it held; the output callback is not.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <span>

#include "devices/bus.h"

namespace ckptfs {

class Uart final : public MmioDevice {
 public:
  static constexpr size_t kFifoBytes = 16;
  static constexpr size_t kReceiveLimitBytes = 16 * 1024;

  /** Bytes that the guest sent; called on the vCPU thread that sent them, and must not throw. */
  using Output = std::function<void(std::span<const uint8_t>)>;

  struct State {
    uint8_t interruptEnable = 0;
    uint8_t fifoControl = 0;  // enable bit and trigger level
    uint8_t lineControl = 0;
    uint8_t modemControl = 0;
    uint8_t scratch = 0;
    uint16_t divisor = 1;
    bool transmitPending = false;  // "transmitter empty" not yet acknowledged
    std::deque<uint8_t> received;
    bool operator==(const State&) const = default;
  };

  Uart(InterruptLine line, Output output);

  /** Queues input for the guest; from any thread. Returns how many bytes were taken, from the
   * front: fewer than given when kReceiveLimitBytes are waiting. */
  size_t receive(std::span<const uint8_t> bytes);

  uint64_t read(uint64_t offset, unsigned size) noexcept override;
  void write(uint64_t offset, unsigned size, uint64_t value) noexcept override;
  std::unique_ptr<Frozen> freeze() const override;
  /** Drives the interrupt line. */
  void thaw(const Json& json) override;

 private:
  bool fifoEnabled() const noexcept;
  size_t fifoLevel() const noexcept;
  uint8_t identify() const noexcept;
  uint8_t readReceiver() noexcept;
  uint8_t readIdentification() noexcept;
  uint8_t modemStatus() const noexcept;
  /** True when the byte is to be sent out. */
  bool transmit(uint8_t byte) noexcept;
  void setInterruptEnable(uint8_t value) noexcept;
  void setFifoControl(uint8_t value) noexcept;
  void update() noexcept;

  mutable std::mutex mutex_;
  State state_;
  const InterruptLine line_;
  const Output output_;
};

void to_json(Json& json, const Uart::State& state);
/** Throws Error(damaged). */
void from_json(const Json& json, Uart::State& state);

}  // namespace ckptfs
