// The traces on guest memory: moves blocks between their states, and keeps the protection of the
// guest view at least as strict as the states demand (it may be stricter: a fault then only
// permits).
//
// A block gets a stricter state than it has only by arming. Arming and permitting exclude one
// another by one lock, under which a permit looks at the state again, so that it never undoes an
// arming. Everything else about states is lock-free; see block_states.h. The lock is taken in
// faults too, which is allowed because guest code holds none.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>

#include "memory/block_states.h"
#include "memory/trace_client.h"
#include "memory/trace_engine.h"

namespace ckptfs {

class BlockTraces final : FaultSink {
 public:
  BlockTraces(const GuestView& view, const std::string& engine, uint64_t mappingLimit);

  const BlockStates& states() const noexcept { return states_; }
  bool loadsPending() const noexcept { return loader_.load(std::memory_order_acquire) != nullptr; }

  /** Brings every block of the run to a state that allows the access, loading or saving. False: a
   *  client failed for one of them (the others are done). */
  bool prepare(BlockRange run, bool write) noexcept;
  /** The same for one block on behalf of a vCPU, and lets the access through. Waits while the
   * client fails, until retryFailed(); leaves by escapeGuarded() once abandoned. */
  void admit(BlockId block, bool write) noexcept;

  // See GuestMemory.
  void track(bool on) noexcept { tracking_.store(on, std::memory_order_relaxed); }
  void armAhead(BlockRange run) noexcept;
  void armWrite(TraceClient* saver, bool keepBase, std::span<uint8_t> traced);
  bool settleSave(BlockRange run) noexcept;
  void endSave(bool ok) noexcept;
  void armAccess(TraceClient* loader);
  bool settleLoad(BlockRange run) noexcept;
  void endLoad() noexcept;
  void onFailure(std::function<void()> callback);
  void retryFailed() noexcept;
  void abandon() noexcept;

  uint64_t faults() const noexcept { return faults_.load(std::memory_order_relaxed); }
  uint64_t waits() const noexcept { return waits_.load(std::memory_order_relaxed); }
  uint64_t widened() const noexcept { return widened_.load(std::memory_order_relaxed); }
  uint64_t mappings() const noexcept { return engine_->mappings(); }

 private:
  enum class Moved : uint8_t { done, failed, elsewhere };

  bool onFault(uint64_t offset, FaultKind kind) noexcept override;
  bool ready(BlockId block, bool write, Cause cause) noexcept;
  bool settle(BlockRange run, BlockState from, BlockState via, BlockState to) noexcept;
  Moved move(BlockId block, BlockState from, BlockState to, Cause cause) noexcept;
  void wait(BlockId block, BlockState moving) noexcept;
  void liftAhead(BlockId block) noexcept;
  bool permit(BlockRange run, bool write) noexcept;
  bool allow(BlockRange run, Rights rights) const noexcept;
  void permitAhead(BlockRange run) noexcept;
  void waitForRetry(uint32_t since) noexcept;
  BlockState settled() const noexcept {
    return tracking_.load(std::memory_order_relaxed) ? BlockState::clean : BlockState::open;
  }
  BlockRange all() const noexcept { return {0, states_.count()}; }

  const Geometry geometry_;
  const bool traps_;  // false: the engine is soft
  BlockStates states_;
  std::atomic<bool> tracking_{false};
  std::atomic<TraceClient*> saver_{nullptr};   // changed under lock_
  std::atomic<TraceClient*> loader_{nullptr};  // set before anybody can touch memory

  std::mutex callbackLock_;  // guards failureCallback_
  std::function<void()> failureCallback_;
  std::atomic<uint32_t> retries_{0};  // counted by retryFailed() and abandon(); waiters sleep on it
  std::atomic<bool> abandoned_{false};

  std::atomic<uint64_t> faults_{0};
  std::atomic<uint64_t> waits_{0};
  std::atomic<uint64_t> widened_{0};

  std::mutex lock_;                            // arming and permitting; calls to the engine
  const std::unique_ptr<TraceEngine> engine_;  // last: takes faults as soon as it stands
};

}  // namespace ckptfs
