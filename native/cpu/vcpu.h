// The vCPU interface that the machine runs: free of any instruction set, so that a KVM backend
// fits.
//
// One Vcpu runs on one thread, which the machine owns. Everything but run() may be called from any
// thread unless said otherwise.
#pragma once

#include <cstdint>
#include <functional>

#include "base/stateful.h"

namespace ckptfs {

/** Why a guest ended or cannot go on. `reason` is the guest's own code (0: a clean power-off). */
struct GuestExit {
  enum class Kind : uint8_t { shutdown, reboot, failure } kind = Kind::shutdown;
  uint64_t reason = 0;
};

/** What a vCPU needs of the machine around it. Called on vCPU threads; must not throw. */
class VcpuHost {
 public:
  virtual ~VcpuHost() = default;
  /** Device access at a guest-physical address outside RAM; size is 1, 2, 4 or 8.
   *  False: no device there, the guest gets an access fault. */
  virtual bool mmioRead(uint64_t address, unsigned size, uint64_t& value) noexcept = 0;
  virtual bool mmioWrite(uint64_t address, unsigned size, uint64_t value) noexcept = 0;
  /** Guest time in GuestClock ticks. */
  virtual uint64_t now() noexcept = 0;
  /** Asks for VcpuSet::timerExpired(vcpu) once guest time reaches `ticks`; replaces the vCPU's
   * earlier deadline; UINT64_MAX disarms. */
  virtual void setTimer(unsigned vcpu, uint64_t ticks) noexcept = 0;
  /** Bytes for the debug console (SBI DBCN). */
  virtual void debugWrite(const uint8_t* bytes, uint64_t length) noexcept = 0;
  /** The guest ended; the machine stops all vCPUs soon after. */
  virtual void guestExit(const GuestExit& exit) noexcept = 0;
};

/** One virtual CPU. */
class Vcpu {
 public:
  virtual ~Vcpu() = default;
  /** Executes the guest on the calling thread until requestExit(); returns at an instruction
   *  boundary, with all state in the State struct. Sleeps inside while the guest waits for an
   *  interrupt or the vCPU is not started. The thread must have run GuestMemory::attachThread(). */
  virtual void run() noexcept = 0;
  /** Makes a running or sleeping run() return soon; if none runs, the next one returns at once. */
  virtual void requestExit() noexcept = 0;
  /** Instructions executed since the start, for `info` and benchmarks; approximate while running.
   */
  virtual uint64_t instructions() const noexcept = 0;
};

/** All virtual CPUs of a machine: they interrupt, start and fence one another. */
class VcpuSet : public Stateful {
 public:
  virtual unsigned count() const noexcept = 0;
  virtual Vcpu& vcpu(unsigned index) noexcept = 0;
  /** Boot state: vCPU 0 starts at `entry` with its index and `deviceTree` as arguments, the others
   * wait. */
  virtual void reset(uint64_t entry, uint64_t deviceTree) noexcept = 0;
  /** Level of the external interrupt input of one vCPU (from the interrupt controller). */
  virtual void setExternalInterrupt(unsigned vcpu, bool level) noexcept = 0;
  /** The deadline given to VcpuHost::setTimer has passed. */
  virtual void timerExpired(unsigned vcpu) noexcept = 0;
  /** Every vCPU forgets its address translations before its next instruction, so that its accesses
   *  go through GuestMemory::access() and noteAccess() again. While they run or are parked. */
  virtual void flushTranslations() noexcept = 0;
  /** After thaw(): hands every pending timer deadline to VcpuHost::setTimer again. */
  virtual void rearmTimers() noexcept = 0;
};

}  // namespace ckptfs
