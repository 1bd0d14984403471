// The barrier at which vCPU threads park while the machine is held.
//
// Holds nest: a checkpoint may pause a machine that its user has paused already. A thread is either
// inside pass() (parked) or between two passes (running); quiesced means held and all parked.
#pragma once

#include <condition_variable>
#include <mutex>

namespace ckptfs {

class Gate {
 public:
  explicit Gate(unsigned threads) : running_(threads) {}

  /** Called by a vCPU thread between two runs: parks while held. False: the machine is closing. */
  bool pass();
  /** The calling thread never passes again. */
  void leave();

  /** Adds a hold; running threads must be told to come here (Vcpu::requestExit). */
  void hold();
  /** Waits until every thread is parked or has left. False: a thread is stuck (see stuck()). */
  bool waitParked();
  /** Removes one hold. */
  void release();
  /** Lets every thread go with `false`, for ever. */
  void close();
  /** A thread waits inside a fault that cannot be served, so that nobody may wait for it. */
  void stuck(bool value);
  unsigned holds() const;

 private:
  mutable std::mutex mutex_;
  std::condition_variable opened_;
  std::condition_variable parked_;
  unsigned running_;
  unsigned holds_ = 0;
  bool closed_ = false;
  bool stuck_ = false;
};

}  // namespace ckptfs
