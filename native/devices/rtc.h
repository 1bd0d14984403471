// The clock that tells the guest the date: "google,goldfish-rtc", nanoseconds since 1970 in UTC.
//
// It shows the host's time, also after a restore, plus what the guest has set it off by. One alarm.
// Registers of 32 bits: time at 0 and 4 (reading the low half keeps the high one of that moment;
// either half can be set), the alarm at 8 and 12 (writing the low half arms it), interrupt enable
// at 16, clear alarm at 20, alarm status at 24, clear interrupt at 28.
//
// Source: GOLDFISH-VIRTUAL-HARDWARE.TXT of Android's emulator, section Goldfish timer, and the
// names of Linux' include/clocksource/timer-goldfish.h.
//
// The mutex guards State; the line is driven with it held. A thread, which exists from the first
// alarm on, waits for it.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>

#include "devices/bus.h"

namespace ckptfs {

class Rtc final : public MmioDevice {
 public:
  struct State {
    uint64_t offsetNs = 0;  // the guest's time less the host's, modulo 2^64
    uint64_t alarmNs = 0;   // in the guest's time
    uint32_t timeHigh = 0;  // as of the last read of the low half
    bool armed = false;
    bool interruptEnabled = false;
    bool interruptPending = false;
    bool operator==(const State&) const = default;
  };

  explicit Rtc(InterruptLine line);
  ~Rtc() override;

  uint64_t read(uint64_t offset, unsigned size) noexcept override;
  void write(uint64_t offset, unsigned size, uint64_t value) noexcept override;
  std::unique_ptr<Frozen> freeze() const override;
  /** Drives the interrupt line. An alarm that has passed meanwhile goes off at once. */
  void thaw(const Json& json) override;

 private:
  uint64_t now() const noexcept;
  void setNow(uint64_t ns) noexcept;
  void update() noexcept;
  /** Lets an alarm go off whose time has come; false if there is none. */
  bool ring() noexcept;
  /** After a change of alarm or time. */
  void rearm() noexcept;
  void waitForAlarms() noexcept;

  mutable std::mutex mutex_;
  State state_;
  bool ending_ = false;
  std::condition_variable changed_;
  std::thread thread_;
  const InterruptLine line_;
};

void to_json(Json& json, const Rtc::State& state);
/** Throws Error(damaged). */
void from_json(const Json& json, Rtc::State& state);

}  // namespace ckptfs
