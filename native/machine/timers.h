// One thread that turns vCPU timer deadlines in guest time into timer interrupts.
//
// Guest time stands still while the machine is quiesced; wake() tells the thread that it runs
// again.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "base/clock.h"

namespace ckptfs {

class Timers {
 public:
  static constexpr uint64_t kNever = UINT64_MAX;

  /** `expired` is called on the timer thread, without a lock held. The clock outlives this. */
  Timers(const GuestClock& clock, unsigned vcpus, std::function<void(unsigned vcpu)> expired);
  ~Timers();

  /** Replaces one vCPU's deadline, in ticks of guest time; kNever disarms. */
  void set(unsigned vcpu, uint64_t ticks);
  /** The clock has been started or stopped. */
  void wake();

 private:
  void run();

  const GuestClock& clock_;
  std::function<void(unsigned)> expired_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<uint64_t> deadlines_;
  bool woken_ = false;
  bool closing_ = false;
  std::thread thread_;
};

}  // namespace ckptfs
