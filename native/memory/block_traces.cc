#include "memory/block_traces.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/error.h"
#include "memory/fault_thread.h"

namespace ckptfs {
namespace {

// Each step of a widened permit takes in eight times as many blocks.
constexpr uint64_t kWidening = 8;
// The lock is held for so many blocks (16 MiB unless configured) at a time while guests run: some
// 0.2 ms where every page of them is mapped.
constexpr uint64_t kStepBlocks = 512;

}  // namespace

BlockTraces::BlockTraces(const GuestView& view, const std::string& engine, uint64_t mappingLimit)
    : geometry_(view.geometry),
      traps_(engine != kSoftEngine),
      states_(view.blocks()),
      engine_(makeTraceEngine(engine, view, this, mappingLimit)) {}

void BlockTraces::wait(BlockId block, BlockState moving) noexcept {
  waits_.fetch_add(1, std::memory_order_relaxed);
  states_.waitWhile(block, moving);
}

/** Has the client handle a block that was seen in `from`; then it is in `to`, or in `from` again.
 */
BlockTraces::Moved BlockTraces::move(BlockId block, BlockState from, BlockState to,
                                     Cause cause) noexcept {
  const bool saves = from == BlockState::traced;
  std::atomic<TraceClient*>& client = saves ? saver_ : loader_;
  TraceClient* const owner = client.load(std::memory_order_acquire);
  BlockState seen = from;
  if (!states_[block].compare_exchange_strong(
          seen, saves ? BlockState::saving : BlockState::loading, std::memory_order_acq_rel))
    return Moved::elsewhere;
  if (client.load(std::memory_order_acquire) != owner || owner == nullptr) {
    states_.set(block, from);  // that save has ended, and this trace is of another one
    return Moved::elsewhere;
  }
  const bool handled = owner->handle(block, cause);
  states_.set(block, handled ? to : from);
  if (handled) return Moved::done;
  const std::lock_guard lock(callbackLock_);
  if (failureCallback_) failureCallback_();
  return Moved::failed;
}

/** A write to a block that is armed ahead of the pause: there is nothing to save yet. */
void BlockTraces::liftAhead(BlockId block) noexcept {
  const std::lock_guard lock(lock_);  // the pause does not come between
  BlockState traced = BlockState::traced;
  if (saver_.load(std::memory_order_relaxed) == nullptr)
    states_[block].compare_exchange_strong(traced, BlockState::open, std::memory_order_acq_rel);
}

/** Brings a block to a state that allows reading or writing. False: the client failed. */
bool BlockTraces::ready(BlockId block, bool write, Cause cause) noexcept {
  for (;;) {
    BlockState now = states_.at(block);
    Moved moved = Moved::elsewhere;
    switch (now) {
      case BlockState::open:
        return true;
      case BlockState::clean:
      case BlockState::saved:
        if (!write || states_[block].compare_exchange_strong(now, BlockState::open,
                                                             std::memory_order_acq_rel))
          return true;
        break;
      case BlockState::traced:
        if (!write) return true;
        if (saver_.load(std::memory_order_acquire) == nullptr)
          liftAhead(block);
        else
          moved = move(block, now, BlockState::open, cause);
        break;
      case BlockState::absent:
        moved = move(block, now, write ? BlockState::open : settled(), cause);
        break;
      case BlockState::saving:
        if (!write) return true;
        wait(block, now);
        break;
      case BlockState::loading:
        wait(block, now);
        break;
    }
    if (moved != Moved::elsewhere) return moved == Moved::done;
  }
}

bool BlockTraces::prepare(BlockRange run, bool write) noexcept {
  bool ok = true;
  for (BlockId block = run.first; block < run.end(); ++block)
    ok &= ready(block, write, Cause::demand);
  return ok;
}

bool BlockTraces::allow(BlockRange run, Rights rights) const noexcept {
  for (BlockId block = run.first; block < run.end(); ++block)
    if (rightsIn(states_.at(block)) < rights) return false;
  return true;
}

/** Lets accesses to a run through, and to as much around it as the mapping budget demands: groups
 *  of 8, 64, 512... blocks, all of which are made ready first. False: the client failed for one. */
bool BlockTraces::permit(BlockRange run, bool write) noexcept {
  if (!traps_) return true;
  const Rights rights = write ? Rights::all : Rights::read;
  for (uint64_t group = kWidening;;) {
    bool refused = false;
    {
      const std::lock_guard lock(lock_);
      if (allow(run, rights)) {
        if (engine_->permit(run, rights)) return true;
        refused = true;
      }
    }
    if (refused && run.count == states_.count()) {
      usleep(1000);  // the kernel has no memory for the moment
    } else if (refused) {
      widened_.fetch_add(1, std::memory_order_relaxed);
      const BlockId end = std::min((run.end() + group - 1) / group * group, states_.count());
      run.first = run.first / group * group;
      run.count = end - run.first;
      group *= kWidening;
    }
    for (BlockId block = run.first; block < run.end(); ++block)
      if (!ready(block, write, Cause::demand)) return false;
  }
}

void BlockTraces::admit(BlockId block, bool write) noexcept {
  faults_.fetch_add(1, std::memory_order_relaxed);
  for (;;) {
    const uint32_t since = retries_.load(std::memory_order_acquire);
    if (ready(block, write, Cause::demand) && permit({block, 1}, write)) return;
    waitForRetry(since);
  }
}

bool BlockTraces::onFault(uint64_t offset, FaultKind kind) noexcept {
  if (kind == FaultKind::fetch) return false;  // no trace can have caused it
  admit(geometry_.blockOf(offset), kind == FaultKind::write);
  return true;
}

void BlockTraces::waitForRetry(uint32_t since) noexcept {
  if (abandoned_.load(std::memory_order_acquire)) escapeGuarded();
  retries_.wait(since, std::memory_order_acquire);
  if (abandoned_.load(std::memory_order_acquire)) escapeGuarded();
}

/** Permits what the states of the run allow, as far as the mapping budget goes. */
void BlockTraces::permitAhead(BlockRange run) noexcept {
  for (BlockId step = run.first; traps_ && step < run.end(); step += kStepBlocks) {
    const std::lock_guard lock(lock_);
    const BlockId stepEnd = std::min(step + kStepBlocks, run.end());
    for (BlockId first = step, end; first < stepEnd; first = end) {
      const Rights rights = rightsIn(states_.at(first));
      for (end = first + 1; end < stepEnd && rightsIn(states_.at(end)) == rights;) ++end;
      if (rights != Rights::none) engine_->permitAhead({first, end - first}, rights);
    }
  }
}

void BlockTraces::armAhead(BlockRange run) noexcept {
  for (BlockId step = run.first; traps_ && step < run.end(); step += kStepBlocks) {
    const std::lock_guard lock(lock_);
    const BlockRange blocks{step, std::min(kStepBlocks, run.end() - step)};
    if (!engine_->protect(blocks, Rights::read)) return;  // the pause does it
    for (BlockId block = step; block < blocks.end(); ++block) {
      BlockState open = BlockState::open;
      states_[block].compare_exchange_strong(open, BlockState::traced, std::memory_order_acq_rel);
    }
  }
}

void BlockTraces::armWrite(TraceClient* saver, bool keepBase, std::span<uint8_t> traced) {
  const std::lock_guard lock(lock_);
  if (saver_.load() != nullptr)
    throw Error(Code::busy, "guest memory is being saved already; wait for that save to end");
  if (traced.size() != states_.count() && (keepBase || !traced.empty()))
    throw Error(Code::usage, "a save needs one byte for each memory block");
  if (!keepBase && loadsPending() && states_.anyAbsentOrLoading())
    throw Error(Code::busy, "guest memory is not loaded yet; wait for the restore to end");
  if (!engine_->protect(all(), Rights::read)) throwErrno(errno, "cannot trace guest memory");
  states_.arm(keepBase, traced);
  saver_.store(saver, std::memory_order_release);
}

/** Moves the blocks of the run that are in `from` to `to`, and waits for those in `via`. */
bool BlockTraces::settle(BlockRange run, BlockState from, BlockState via, BlockState to) noexcept {
  bool ok = true;
  for (BlockId block = run.first; block < run.end();) {
    const BlockState now = states_.at(block);
    if (now == via) {
      wait(block, via);
      continue;
    }
    if (now == from) {
      const Moved moved = move(block, from, to, Cause::background);
      if (moved == Moved::elsewhere) continue;
      ok &= moved == Moved::done;
    }
    ++block;
  }
  return ok;
}

bool BlockTraces::settleSave(BlockRange run) noexcept {
  return settle(run, BlockState::traced, BlockState::saving, BlockState::saved);
}

void BlockTraces::endSave(bool ok) noexcept {
  const BlockState after = ok ? settled() : BlockState::open;
  for (BlockId block = 0; block < states_.count();) {
    BlockState now = states_.at(block);
    if (now == BlockState::saving) {
      wait(block, now);
      continue;
    }
    if (now != BlockState::traced && now != BlockState::saved) {
      ++block;
      continue;
    }
    // A block that nobody saved differs from what was saved.
    const BlockState to = now == BlockState::saved ? after : BlockState::open;
    states_[block].compare_exchange_strong(now, to, std::memory_order_acq_rel);
  }
  {
    const std::lock_guard lock(lock_);
    saver_.store(nullptr, std::memory_order_release);
  }
  if (after == BlockState::open) permitAhead(all());
  retryFailed();  // whoever waited for the saver needs it no more
}

void BlockTraces::armAccess(TraceClient* loader) {
  const std::lock_guard lock(lock_);
  if (loadsPending() || saver_.load() != nullptr)
    throw Error(Code::busy, "guest memory is traced already; wait for the save or restore to end");
  if (!engine_->protect(all(), Rights::none)) throwErrno(errno, "cannot trace guest memory");
  loader_.store(loader, std::memory_order_release);
  states_.fill(BlockState::absent);
}

bool BlockTraces::settleLoad(BlockRange run) noexcept {
  const bool ok = settle(run, BlockState::absent, BlockState::loading, settled());
  permitAhead(run);
  return ok;
}

void BlockTraces::endLoad() noexcept {
  loader_.store(nullptr, std::memory_order_release);
  permitAhead(all());
}

void BlockTraces::onFailure(std::function<void()> callback) {
  const std::lock_guard lock(callbackLock_);
  failureCallback_ = std::move(callback);
}

void BlockTraces::retryFailed() noexcept {
  retries_.fetch_add(1, std::memory_order_acq_rel);
  retries_.notify_all();
}

void BlockTraces::abandon() noexcept {
  abandoned_.store(true, std::memory_order_release);
  retryFailed();
}

}  // namespace ckptfs
