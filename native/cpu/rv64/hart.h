// One hart: its state, caches and thread protocol. The instructions themselves are in ops/.
//
// run() and everything under "on the hart's thread" belong to the thread inside run(); other
// threads only set bits of `attention_` and `state_.pending`, and post fences and starts under
// `mutex_`. The interpreter looks at attention_ whenever it enters a block. `mutex_` is never held
// while guest memory is touched, so that a thread may wait in, or leave by, a memory fault.
#pragma once

#include <atomic>
#include <mutex>

#include "cpu/rv64/block_cache.h"
#include "cpu/rv64/hart_state.h"
#include "cpu/rv64/mmu.h"
#include "cpu/vcpu.h"

namespace ckptfs::rv64 {

class Cpus;

/** What a hart asks of another by SBI RFENCE. */
struct RemoteFence {
  bool instructions = false;  // fence.i, else sfence.vma of [first, first + bytes)
  uint64_t first = 0;
  uint64_t bytes = UINT64_MAX;  // UINT64_MAX: all addresses
};

class Hart final : public Vcpu {
 public:
  Hart(unsigned index, Cpus& cpus, const Ram& ram, VcpuHost& host);

  void run() noexcept override;
  void requestExit() noexcept override { notify(kExit); }
  uint64_t instructions() const noexcept override {
    return __atomic_load_n(&state_.retired, __ATOMIC_RELAXED);
  }

  // From any thread.
  void setPending(uint64_t bits) noexcept;
  void clearPending(uint64_t bits) noexcept;
  void timerExpired() noexcept;
  Hsm hsm() const noexcept;
  bool suspended() const noexcept { return suspended_.load(); }
  /** Starts a stopped hart; false if it is not stopped. */
  bool start(uint64_t pc, uint64_t opaque) noexcept;
  /** Posts a fence; it is done when fenceDone() says so of the returned ticket. */
  uint64_t postFence(const RemoteFence& fence) noexcept;
  bool fenceDone(uint64_t ticket) const noexcept {
    return fencesDone_.load() >= ticket || !executing_.load();
  }

  // While no thread is inside run().
  HartState snapshot() const noexcept;
  void load(const HartState& state) noexcept;
  void rearmTimer() noexcept;

  // On the hart's thread, for the SBI and the CSRs.
  unsigned index() const noexcept { return index_; }
  HartState& own() noexcept { return state_; }
  Mmu& mmu() noexcept { return mmu_; }
  VcpuHost& host() noexcept { return host_; }
  const Ram& ram() const noexcept { return ram_; }
  uint64_t pending() const noexcept;
  void setTimer(uint64_t ticks) noexcept;
  void stop() noexcept;
  /** Call after a change of sie, sip or sstatus that may let an interrupt through. */
  void recheckInterrupts() noexcept {
    if ((pending() & state_.sie) != 0) notify(kInterrupt);
  }
  /** Sleeps until an interrupt is pending. False: an exit was requested instead. */
  bool waitForInterrupt(bool asSuspended = false) noexcept;
  /** Sleeps until an exit is requested: the guest has ended. */
  void waitForExit() noexcept;
  bool exitRequested() const noexcept { return (attention_.load() & kExit) != 0; }
  /** Performs the fences that others posted; for use while waiting for theirs. */
  void serveFences() noexcept;
  void fenceInstructions() noexcept { cache_.fence(); }

 private:
  enum Attention : uint32_t { kExit = 1, kInterrupt = 2, kFence = 4 };

  /** Runs instructions until an exit is requested. With nullptr it only returns the addresses of
   *  its handlers, indexed by Op. */
  // Its accesses to guest memory are for the guest to order, by fences that ThreadSanitizer does
  // not know.
  __attribute__((no_sanitize("thread"))) static const void* const* interpret(Hart* hart) noexcept;

  void notify(uint32_t bits) noexcept;
  /** Handles attention_. False: exit. The state is complete before and after. */
  bool attend() noexcept;
  void trap(uint64_t cause, uint64_t value) noexcept;
  void takeInterrupt() noexcept;
  void returnFromTrap() noexcept;
  /** The block at a guest-virtual pc; nullptr with mmu_.fault set. */
  Block* fetch(uint64_t pc) noexcept;
  template <class Ready>
  bool sleepUntil(Ready ready) noexcept;

  const unsigned index_;
  Cpus& cpus_;
  VcpuHost& host_;
  const Ram ram_;
  HartState state_;
  Mmu mmu_;
  BlockCache cache_;

  std::atomic<uint32_t> attention_{0};
  std::atomic<bool> executing_{false};  // false: the next instruction comes after an attend()
  std::atomic<bool> suspended_{false};

  mutable std::mutex mutex_;
  static constexpr unsigned kMaxFences = 8;  // more become one fence of everything
  RemoteFence fences_[kMaxFences];
  unsigned fenceCount_ = 0;
  uint64_t fencesPosted_ = 0;
  std::atomic<uint64_t> fencesDone_{0};
};

}  // namespace ckptfs::rv64
