#include "memory/fault_handler.h"

#include <pthread.h>
#include <signal.h>
#include <ucontext.h>

#include <atomic>
#include <cerrno>
#include <mutex>

#include "base/error.h"
#include "memory/fault_thread.h"

namespace ckptfs {
namespace {

// Written in the order begin, signal and sink, end by a registration, and end first by its removal.
// A reader takes begin, end, signal, sink and begin again, so that it never mixes two owners of one
// slot.
struct Slot {
  std::atomic<uintptr_t> begin{0};
  std::atomic<uintptr_t> end{0};
  std::atomic<int> signal{0};
  std::atomic<FaultSink*> sink{nullptr};
};

Slot slots[kMaxFaultRanges];
std::mutex registrationLock;  // guards adding and removing; never taken by the handler

// What was installed before for one signal: the handler reads one entry while a new installation
// fills the other.
struct Previous {
  struct sigaction actions[2];
  std::atomic<unsigned> index{0};
};
Previous previousSegv, previousBus;

Previous& previousOf(int signal) {
  return signal == SIGBUS ? previousBus : previousSegv;
}

#if defined(__x86_64__)
FaultKind kindOf(const ucontext_t* context) {
  const auto error = static_cast<uint64_t>(context->uc_mcontext.gregs[REG_ERR]);
  if (error & 0x10) return FaultKind::fetch;                // page-fault error code bit 4
  return error & 0x2 ? FaultKind::write : FaultKind::read;  // bit 1
}
#elif defined(__aarch64__)
FaultKind kindOf(const ucontext_t* context) {
  // The kernel appends records to the context; ESR_MAGIC carries the syndrome, bit 6 of a data
  // abort is WnR (write, not read). Class 0x20 and 0x21 are instruction aborts.
  const auto* at = reinterpret_cast<const uint8_t*>(context->uc_mcontext.__reserved);
  const auto* const end = at + sizeof(context->uc_mcontext.__reserved);
  while (end - at >= 16) {
    const auto* head = reinterpret_cast<const uint32_t*>(at);
    if (head[0] == 0x45535201) {  // ESR_MAGIC
      const uint64_t syndrome = *reinterpret_cast<const uint64_t*>(at + 8);
      if ((syndrome >> 27) == 0x4) return FaultKind::fetch;
      return syndrome & 0x40 ? FaultKind::write : FaultKind::read;
    }
    if (head[0] == 0 || head[1] < 16 || head[1] > end - at) break;
    at += head[1];
  }
  return FaultKind::write;
}
#else
FaultKind kindOf(const ucontext_t*) {
  return FaultKind::write;
}
#endif

bool resolve(int signal, const siginfo_t* info, const void* context) {
  // Guest views are always mapped, and their file is never cut short.
  const int claimed = signal == SIGBUS ? int{BUS_ADRERR} : int{SEGV_ACCERR};
  if (info->si_code != claimed) return false;
  const auto address = reinterpret_cast<uintptr_t>(info->si_addr);
  for (Slot& slot : slots) {
    const uintptr_t begin = slot.begin.load(std::memory_order_acquire);
    const uintptr_t end = slot.end.load(std::memory_order_acquire);
    if (address < begin || address >= end) continue;
    if (slot.signal.load(std::memory_order_acquire) != signal) continue;
    FaultSink* const sink = slot.sink.load(std::memory_order_acquire);
    if (slot.begin.load(std::memory_order_acquire) != begin) continue;
    return sink->onFault(address - begin, kindOf(static_cast<const ucontext_t*>(context)));
  }
  return false;
}

void dieByDefault(int number, const siginfo_t* info) {
  struct sigaction action = {};
  action.sa_handler = SIG_DFL;
  sigaction(number, &action, nullptr);
  // A fault happens again when the handler returns; a signal that somebody sent has to be repeated.
  if (info->si_code <= 0) raise(number);
}

void chain(int number, siginfo_t* info, void* context) {
  Previous& earlier = previousOf(number);
  struct sigaction& previous = earlier.actions[earlier.index.load(std::memory_order_acquire)];
  const bool sent = info->si_code <= 0;
  if (!(previous.sa_flags & SA_SIGINFO) && previous.sa_handler == SIG_IGN && sent) return;
  // SIG_IGN does not hold for a real fault (the kernel kills). A handler that was installed after
  // this one and passes faults back ends the chain here.
  if (!enterChain(info, __builtin_frame_address(0)) ||
      (!(previous.sa_flags & SA_SIGINFO) &&
       (previous.sa_handler == SIG_DFL || previous.sa_handler == SIG_IGN))) {
    dieByDefault(number, info);
    return;
  }
  // The previous handler runs under the mask that it asked for; returning from the signal restores
  // the thread's own.
  sigset_t mask = previous.sa_mask;
  pthread_sigmask(SIG_BLOCK, &mask, nullptr);
  if (previous.sa_flags & SA_NODEFER) {
    sigemptyset(&mask);
    sigaddset(&mask, number);
    pthread_sigmask(SIG_UNBLOCK, &mask, nullptr);
  }
  const struct sigaction action = previous;
  if (previous.sa_flags & SA_RESETHAND) {
    previous.sa_flags = 0;
    previous.sa_handler = SIG_DFL;
  }
  if (action.sa_flags & SA_SIGINFO)
    action.sa_sigaction(number, info, context);
  else
    action.sa_handler(number);
}

void onSignal(int number, siginfo_t* info, void* context) {
  const int savedErrno = errno;
  if (!resolve(number, info, context)) chain(number, info, context);
  errno = savedErrno;
}

// Called for every registration, because others (a test runner, say) may have replaced the handler.
void ensureInstalled(int signal) {
  struct sigaction now = {};
  if (sigaction(signal, nullptr, &now) != 0) throwErrno(errno, "cannot read a fault handler");
  if ((now.sa_flags & SA_SIGINFO) && now.sa_sigaction == onSignal) return;
  Previous& previous = previousOf(signal);
  const unsigned next = 1 - previous.index.load(std::memory_order_relaxed);
  previous.actions[next] = now;
  previous.index.store(next, std::memory_order_release);
  struct sigaction action = {};
  action.sa_sigaction = onSignal;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigemptyset(&action.sa_mask);
  if (sigaction(signal, &action, nullptr) != 0) throwErrno(errno, "cannot install a fault handler");
}

}  // namespace

FaultRegistration::FaultRegistration(int signal, const std::byte* base, uint64_t bytes,
                                     FaultSink* sink) {
  const std::lock_guard lock(registrationLock);
  ensureInstalled(signal);
  while (slot_ < kMaxFaultRanges && slots[slot_].end.load(std::memory_order_relaxed) != 0) ++slot_;
  if (slot_ == kMaxFaultRanges)
    throw Error(Code::busy, "more than " + std::to_string(kMaxFaultRanges) +
                                " guest memories in one process; close one first");
  const auto begin = reinterpret_cast<uintptr_t>(base);
  slots[slot_].begin.store(begin, std::memory_order_release);
  slots[slot_].signal.store(signal, std::memory_order_release);
  slots[slot_].sink.store(sink, std::memory_order_release);
  slots[slot_].end.store(begin + bytes, std::memory_order_release);
}

FaultRegistration::~FaultRegistration() {
  const std::lock_guard lock(registrationLock);
  slots[slot_].end.store(0, std::memory_order_release);
  slots[slot_].begin.store(UINTPTR_MAX, std::memory_order_release);
}

}  // namespace ckptfs
