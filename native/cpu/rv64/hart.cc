#include "cpu/rv64/hart.h"

#include <atomic>

namespace ckptfs::rv64 {

Hart::Hart(unsigned index, Cpus& cpus, const Ram& ram, VcpuHost& host)
    : index_(index),
      cpus_(cpus),
      host_(host),
      ram_(ram),
      mmu_(ram, state_, host),
      cache_(ram, interpret(nullptr)) {}

void Hart::run() noexcept {
  executing_.store(true);
  // Whatever happened while nobody ran is looked at before the first instruction.
  attention_.fetch_or(kInterrupt);
  mmu_.flush();
  {
    std::lock_guard lock(mutex_);  // another hart may just be starting this one
    mmu_.setContext();
  }
  interpret(this);
  executing_.store(false);
  attention_.fetch_and(~uint32_t{kExit});
}

void Hart::notify(uint32_t bits) noexcept {
  attention_.fetch_or(bits);
  attention_.notify_all();
}

uint64_t Hart::pending() const noexcept {
  return __atomic_load_n(&state_.pending, __ATOMIC_SEQ_CST);
}

void Hart::setPending(uint64_t bits) noexcept {
  __atomic_fetch_or(&state_.pending, bits, __ATOMIC_SEQ_CST);
  notify(kInterrupt);
}

void Hart::clearPending(uint64_t bits) noexcept {
  __atomic_fetch_and(&state_.pending, ~bits, __ATOMIC_SEQ_CST);
}

void Hart::setTimer(uint64_t ticks) noexcept {
  {
    std::lock_guard lock(mutex_);
    state_.timerDeadline = ticks;
    clearPending(irq::kTimer);
  }
  host_.setTimer(index_, ticks);  // unlocked: the host may hold its own lock in timerExpired()
}

void Hart::timerExpired() noexcept {
  constexpr uint64_t kSlackTicks =
      100;  // of the host's rounding: a timer may come early, never not
  const uint64_t latest = host_.now() + kSlackTicks;
  std::lock_guard lock(mutex_);  // one step: a snapshot has the deadline or the interrupt
  if (state_.timerDeadline > latest) return;  // the guest has replaced the deadline meanwhile
  state_.timerDeadline = HartState::kNoTimer;
  setPending(irq::kTimer);
}

HartState Hart::snapshot() const noexcept {
  std::lock_guard lock(mutex_);
  return state_;
}

void Hart::rearmTimer() noexcept {
  if (state_.timerDeadline != HartState::kNoTimer) host_.setTimer(index_, state_.timerDeadline);
}

void Hart::load(const HartState& state) noexcept {
  state_ = state;
  state_.reservation = HartState::kNoReservation;
  cache_.clear();
}

Hsm Hart::hsm() const noexcept {
  return std::atomic_ref(const_cast<Hsm&>(state_.hsm)).load();
}

void Hart::stop() noexcept {
  notify(kInterrupt);  // so that the interpreter attends, which sleeps
  std::lock_guard lock(mutex_);
  std::atomic_ref(state_.hsm).store(Hsm::stopped);
}

bool Hart::start(uint64_t pc, uint64_t opaque) noexcept {
  {
    std::lock_guard lock(mutex_);
    if (hsm() != Hsm::stopped) return false;
    state_.pc = pc;
    state_.x[10] = index_;
    state_.x[11] = opaque;
    state_.privilege = Privilege::supervisor;
    state_.satp = 0;
    state_.sstatus = 0;
    state_.sie = 0;
    state_.scounteren = HartState::kAllCounters;
    std::atomic_ref(state_.hsm).store(Hsm::started);
  }
  notify(kInterrupt);
  return true;
}

uint64_t Hart::postFence(const RemoteFence& fence) noexcept {
  uint64_t ticket;
  {
    std::lock_guard lock(mutex_);
    if (fenceCount_ < kMaxFences) {
      fences_[fenceCount_++] = fence;
    } else {  // one slot for each kind is enough from now on
      fences_[0] = {.instructions = true};
      fences_[1] = {};
      fenceCount_ = 2;
    }
    ticket = ++fencesPosted_;
  }
  notify(kFence);
  return ticket;
}

void Hart::serveFences() noexcept {
  RemoteFence fences[kMaxFences];
  unsigned count;
  uint64_t ticket;
  {
    std::lock_guard lock(mutex_);
    count = fenceCount_;
    for (unsigned i = 0; i < count; ++i) fences[i] = fences_[i];
    fenceCount_ = 0;
    ticket = fencesPosted_;
  }
  constexpr uint64_t kManyPages = 64;  // beyond, flushing everything is cheaper
  for (unsigned i = 0; i < count; ++i) {
    const RemoteFence& fence = fences[i];
    if (fence.instructions) {
      cache_.fence();
    } else if (fence.bytes > kManyPages * kPageBytes) {
      mmu_.flush();
    } else {
      const uint64_t last = (fence.first + fence.bytes - (fence.bytes != 0)) & ~kPageMask;
      for (uint64_t page = fence.first & ~kPageMask;; page += kPageBytes) {
        mmu_.flushAddress(page);
        if (page == last) break;
      }
    }
  }
  fencesDone_.store(ticket);
}

template <class Ready>
bool Hart::sleepUntil(Ready ready) noexcept {
  executing_.store(false);
  bool awake;
  for (;;) {
    const uint32_t seen = attention_.fetch_and(~uint32_t{kInterrupt}) & ~uint32_t{kInterrupt};
    awake = ready();
    if (awake || (seen & kExit) != 0) break;
    attention_.wait(seen);
  }
  executing_.store(true);
  attention_.fetch_or(kInterrupt);  // attend before the next instruction
  return awake;
}

bool Hart::waitForInterrupt(bool asSuspended) noexcept {
  suspended_.store(asSuspended);
  const bool awake = sleepUntil([this] { return (pending() & state_.sie) != 0; });
  suspended_.store(false);
  return awake;
}

void Hart::waitForExit() noexcept {
  sleepUntil([] { return false; });
}

bool Hart::attend() noexcept {
  for (;;) {
    const uint32_t seen = attention_.load();
    if (seen == 0) return true;
    if ((seen & kExit) != 0) return false;
    attention_.fetch_and(~seen);
    if ((seen & kFence) != 0) serveFences();
    if (hsm() == Hsm::stopped) {
      if (!sleepUntil([this] { return hsm() == Hsm::started; })) return false;
      mmu_.flush();
      mmu_.setContext();
      cache_.fence();
      continue;
    }
    takeInterrupt();
  }
}

void Hart::takeInterrupt() noexcept {
  const uint64_t ready = pending() & state_.sie;
  if (ready == 0) return;
  if (state_.privilege == Privilege::supervisor && (state_.sstatus & status::kSie) == 0) return;
  // Volume II, 12.1.3: external, then software, then timer.
  const uint64_t number = (ready & irq::kExternal) != 0 ? 9 : (ready & irq::kSoftware) != 0 ? 1 : 5;
  trap(cause::kInterrupt | number, 0);
}

void Hart::trap(uint64_t cause, uint64_t value) noexcept {
  state_.sepc = state_.pc;
  state_.scause = cause;
  state_.stval = value;
  uint64_t s = state_.sstatus & ~(status::kSpie | status::kSpp | status::kSie);
  if ((state_.sstatus & status::kSie) != 0) s |= status::kSpie;
  if (state_.privilege == Privilege::supervisor) s |= status::kSpp;
  state_.sstatus = s;
  state_.privilege = Privilege::supervisor;
  mmu_.setContext();
  state_.reservation = HartState::kNoReservation;
  state_.pc = state_.stvec & ~uint64_t{3};
  const bool vectored = (state_.stvec & 1) != 0;
  if (vectored && (cause & cause::kInterrupt) != 0) state_.pc += 4 * (cause & ~cause::kInterrupt);
}

void Hart::returnFromTrap() noexcept {
  uint64_t s = state_.sstatus;
  state_.privilege = (s & status::kSpp) != 0 ? Privilege::supervisor : Privilege::user;
  s &= ~(status::kSie | status::kSpp);
  if ((s & status::kSpie) != 0) s |= status::kSie;
  state_.sstatus = s | status::kSpie;
  mmu_.setContext();
  state_.reservation = HartState::kNoReservation;
  state_.pc = state_.sepc;
  recheckInterrupts();
}

Block* Hart::fetch(uint64_t pc) noexcept {
  uint64_t page;
  if (!mmu_.fetchPage(pc, page)) return nullptr;
  if (Block* block = cache_.at(page | (pc & kPageMask))) return block;
  uint64_t second;
  if (!mmu_.fetchPage(pc + 2, second)) return nullptr;
  return cache_.straddling(page | (pc & kPageMask), second);
}

}  // namespace ckptfs::rv64
