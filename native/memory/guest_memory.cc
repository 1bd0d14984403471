#include "memory/guest_memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <mutex>

#include "base/error.h"
#include "memory/fault_thread.h"
#include "memory/trace_engine.h"

namespace ckptfs {
namespace {

// Moving a block takes some 5 to 50 µs: spin for about 2 µs, then sleep.
constexpr int kSpins = 64;
// Each step of a widened lift takes in eight times as many blocks.
constexpr uint64_t kWidening = 8;

// Both views start at a multiple of this and ask for huge pages, which the host grants when its
// shmem_enabled is `advise`. Arming 512 MiB then took 0.1 to 4 ms instead of 15, a fault 13 µs
// either way.
constexpr uint64_t kHugePageBytes = 2 << 20;

/** One mapping of the memfd of guest RAM, with inaccessible addresses around it. */
class Mapping {
 public:
  Mapping(int fd, uint64_t bytes) : reservedBytes_(bytes + 2 * kHugePageBytes) {
    reserved_ = mmap(nullptr, reservedBytes_, PROT_NONE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (reserved_ == MAP_FAILED) fail(bytes);
    const auto start = reinterpret_cast<uintptr_t>(reserved_);
    base_ = static_cast<std::byte*>(reserved_) + (kHugePageBytes - start % kHugePageBytes);
    if (mmap(base_, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE | MAP_FIXED, fd, 0) ==
        MAP_FAILED) {
      const int err = errno;
      munmap(reserved_, reservedBytes_);
      errno = err;
      fail(bytes);
    }
    madvise(base_, bytes, MADV_HUGEPAGE);  // a hint: the host may know no huge pages
  }
  ~Mapping() { munmap(reserved_, reservedBytes_); }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  std::byte* base() const noexcept { return base_; }

 private:
  [[noreturn]] static void fail(uint64_t bytes) {
    throwErrno(errno, "cannot map " + std::to_string(bytes) + " bytes of guest memory");
  }
  const uint64_t reservedBytes_;
  void* reserved_;
  std::byte* base_;
};

class MemoryFile {
 public:
  explicit MemoryFile(uint64_t bytes) : fd_(memfd_create("ckptfs-ram", MFD_CLOEXEC)) {
    if (fd_ < 0) throwErrno(errno, "cannot create guest memory");
    if (ftruncate(fd_, static_cast<off_t>(bytes)) != 0) {
      const int err = errno;
      close(fd_);
      throwErrno(err, "cannot size guest memory to " + std::to_string(bytes) + " bytes");
    }
  }
  ~MemoryFile() { close(fd_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;
  int fd() const noexcept { return fd_; }

 private:
  int fd_;
};

void relax() noexcept {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

struct GuestMemory::Impl final : FaultSink {
  Impl(uint64_t bytes_, const Geometry& geometry_, const std::string& traceEngine,
       uint64_t mappingLimit)
      : bytes((validate(geometry_, bytes_), bytes_)),
        geometry(geometry_),
        blockCount(geometry_.blocksIn(bytes_)),
        file(bytes_),
        host(file.fd(), bytes_),
        guest(file.fd(), bytes_),
        states(std::make_unique<std::atomic<BlockState>[]>(blockCount)),
        engine(
            makeTraceEngine(traceEngine, {guest.base(), bytes_, geometry_}, this, mappingLimit)) {}

  bool onFault(uint64_t offset, FaultKind kind) noexcept override;
  void arm(TraceClient* newClient, BlockState armed);
  bool makeReady(BlockId block) noexcept;
  bool open(BlockRange run) noexcept;
  void markOpen(BlockRange run) noexcept;
  void waitWhileMoving(BlockId block) noexcept;
  void waitForRetry(uint32_t since) noexcept;
  bool prepare(uint64_t offset, uint64_t length) noexcept;
  bool inside(uint64_t offset, uint64_t length) const noexcept {
    return length <= bytes && offset <= bytes - length;
  }

  BlockRange all() const noexcept { return {0, blockCount}; }

  const uint64_t bytes;
  const Geometry geometry;
  const uint64_t blockCount;
  MemoryFile file;
  Mapping host;
  Mapping guest;
  std::unique_ptr<std::atomic<BlockState>[]> states;
  // traced or absent while a client is attached, else open. Changed only while nothing is traced.
  std::atomic<BlockState> mode{BlockState::open};
  std::atomic<TraceClient*> client{nullptr};

  std::mutex callbackLock;  // guards failureCallback
  std::function<void()> failureCallback;
  std::atomic<uint32_t> retries{0};  // counted by retryFailed() and abandon(); waiters sleep on it
  std::atomic<bool> abandoned{false};

  std::atomic<uint64_t> faults{0};
  std::atomic<uint64_t> waits{0};
  std::atomic<uint64_t> widened{0};

  std::unique_ptr<TraceEngine> engine;  // last: takes faults as soon as it stands
};

void GuestMemory::Impl::waitWhileMoving(BlockId block) noexcept {
  waits.fetch_add(1, std::memory_order_relaxed);
  for (int i = 0; i < kSpins; ++i) {
    if (states[block].load(std::memory_order_acquire) != BlockState::moving) return;
    relax();
  }
  states[block].wait(BlockState::moving, std::memory_order_acquire);
}

/** Brings a block to ready, unless it is open. False: the client failed. */
bool GuestMemory::Impl::makeReady(BlockId block) noexcept {
  std::atomic<BlockState>& state = states[block];
  BlockState now = state.load(std::memory_order_acquire);
  for (;;) {
    switch (now) {
      case BlockState::open:
      case BlockState::ready:
        return true;
      case BlockState::moving:
        waitWhileMoving(block);
        now = state.load(std::memory_order_acquire);
        break;
      case BlockState::traced:
      case BlockState::absent: {
        const BlockState before = now;
        if (!state.compare_exchange_strong(now, BlockState::moving, std::memory_order_acq_rel))
          break;
        const bool handled = client.load(std::memory_order_acquire)->handle(block);
        state.store(handled ? BlockState::ready : before, std::memory_order_release);
        state.notify_all();
        if (!handled) {
          const std::lock_guard lock(callbackLock);
          if (failureCallback) failureCallback();
        }
        return handled;
      }
    }
  }
}

void GuestMemory::Impl::markOpen(BlockRange run) noexcept {
  for (BlockId block = run.first; block < run.end(); ++block)
    states[block].store(BlockState::open, std::memory_order_release);
}

/** Lifts a run that is ready or open, and as much around it as the mapping budget demands: groups
 * of 8, 64, 512... blocks, all of which are made ready first. False: the client failed for one. */
bool GuestMemory::Impl::open(BlockRange run) noexcept {
  for (uint64_t group = kWidening; !engine->lift(run); group *= kWidening) {
    if (run.count == blockCount) {  // the kernel has no memory for the moment
      usleep(1000);
      group = blockCount;
      continue;
    }
    widened.fetch_add(1, std::memory_order_relaxed);
    const BlockId end = std::min((run.end() + group - 1) / group * group, blockCount);
    run.first = run.first / group * group;
    run.count = end - run.first;
    for (BlockId block = run.first; block < end; ++block)
      if (!makeReady(block)) return false;
  }
  markOpen(run);
  return true;
}

bool GuestMemory::Impl::onFault(uint64_t offset, FaultKind kind) noexcept {
  // What no armed trace can have caused would come back for ever: it is a bug elsewhere.
  if (kind == FaultKind::fetch) return false;
  if (kind == FaultKind::read && mode.load(std::memory_order_acquire) == BlockState::traced)
    return false;
  faults.fetch_add(1, std::memory_order_relaxed);
  const BlockId block = geometry.blockOf(offset);
  for (;;) {
    const uint32_t since = retries.load(std::memory_order_acquire);
    if (states[block].load(std::memory_order_acquire) == BlockState::open) return true;
    if (makeReady(block) && open({block, 1})) return true;
    waitForRetry(since);
  }
}

void GuestMemory::Impl::waitForRetry(uint32_t since) noexcept {
  if (abandoned.load(std::memory_order_acquire)) escapeGuarded();
  retries.wait(since, std::memory_order_acquire);
  if (abandoned.load(std::memory_order_acquire)) escapeGuarded();
}

bool GuestMemory::Impl::prepare(uint64_t offset, uint64_t length) noexcept {
  const BlockRange range = geometry.covering(offset, length);
  bool ok = true;
  for (BlockId block = range.first; block < range.end(); ++block) ok &= makeReady(block);
  return ok;
}

void GuestMemory::Impl::arm(TraceClient* newClient, BlockState armed) {
  if (client.load() != nullptr)
    throw Error(Code::busy, "guest memory is traced already; wait for the save or restore to end");
  if (armed == BlockState::traced)
    engine->armWrite();
  else
    engine->armAccess();
  client.store(newClient, std::memory_order_release);
  for (BlockId block = 0; block < blockCount; ++block)
    states[block].store(armed, std::memory_order_release);  // whoever sees it sees the client too
  mode.store(armed, std::memory_order_release);
}

GuestMemory::GuestMemory(uint64_t bytes, const Geometry& geometry, const std::string& traceEngine,
                         uint64_t mappingLimit)
    : impl_(std::make_unique<Impl>(bytes, geometry, traceEngine, mappingLimit)) {}
GuestMemory::~GuestMemory() = default;

uint64_t GuestMemory::bytes() const noexcept {
  return impl_->bytes;
}
const Geometry& GuestMemory::geometry() const noexcept {
  return impl_->geometry;
}
uint64_t GuestMemory::blockCount() const noexcept {
  return impl_->blockCount;
}
std::byte* GuestMemory::guestView() const noexcept {
  return impl_->guest.base();
}
std::byte* GuestMemory::hostView() const noexcept {
  return impl_->host.base();
}
int GuestMemory::fd() const noexcept {
  return impl_->file.fd();
}

void GuestMemory::attachThread() {
  attachFaultThread();
}
unsigned GuestMemory::threadIndex() noexcept {
  return faultThreadIndex();
}
bool GuestMemory::runGuarded(const std::function<void()>& function) noexcept {
  return ckptfs::runGuarded(function);
}

bool GuestMemory::prepareRead(uint64_t offset, uint64_t length) noexcept {
  if (!impl_->inside(offset, length)) return false;
  if (impl_->mode.load(std::memory_order_acquire) != BlockState::absent) return true;
  return impl_->prepare(offset, length);
}

bool GuestMemory::prepareWrite(uint64_t offset, uint64_t length) noexcept {
  if (!impl_->inside(offset, length)) return false;
  if (impl_->mode.load(std::memory_order_acquire) == BlockState::open) return true;
  return impl_->prepare(offset, length);
}

void GuestMemory::prepareArm() noexcept {
  impl_->engine->prepareArm();
}
void GuestMemory::armWrite(TraceClient* client) {
  impl_->arm(client, BlockState::traced);
}
void GuestMemory::armAccess(TraceClient* client) {
  impl_->arm(client, BlockState::absent);
}

bool GuestMemory::settle(BlockRange range, bool lift) noexcept {
  bool ok = true;
  BlockRange run{range.first, 0};  // ready or open blocks, some of them ready
  bool anyReady = false;
  const auto liftRun = [&] {
    if (anyReady && lift &&
        (run.count < impl_->blockCount ? impl_->engine->lift(run) : impl_->open(run)))
      impl_->markOpen(run);
    anyReady = false;
  };
  for (BlockId block = range.first; block < range.end(); ++block) {
    if (impl_->makeReady(block)) {
      anyReady |= impl_->states[block].load(std::memory_order_acquire) == BlockState::ready;
      ++run.count;
      continue;
    }
    ok = false;
    liftRun();
    run = {block + 1, 0};
  }
  liftRun();
  return ok;
}

void GuestMemory::disarm() noexcept {
  for (BlockId block = 0; block < impl_->blockCount; ++block) {
    std::atomic<BlockState>& state = impl_->states[block];
    for (BlockState now = state.load(std::memory_order_acquire);
         now == BlockState::traced || now == BlockState::moving;) {
      if (now == BlockState::moving) {
        impl_->waitWhileMoving(block);
        now = state.load(std::memory_order_acquire);
      } else {
        state.compare_exchange_weak(now, BlockState::ready, std::memory_order_acq_rel);
      }
    }
  }
  impl_->open(impl_->all());
}

void GuestMemory::finish() noexcept {
  impl_->mode.store(BlockState::open, std::memory_order_release);
  impl_->client.store(nullptr, std::memory_order_release);
}

BlockState GuestMemory::state(BlockId block) const noexcept {
  return impl_->states[block].load(std::memory_order_acquire);
}

bool GuestMemory::isHole(BlockId block) const noexcept {
  const uint64_t begin = impl_->geometry.offsetOf(block);
  const off_t data = lseek(impl_->file.fd(), static_cast<off_t>(begin), SEEK_DATA);
  if (data < 0) return errno == ENXIO;  // no data up to the end
  return static_cast<uint64_t>(data) >= begin + impl_->geometry.blockBytes();
}

void GuestMemory::onFailure(std::function<void()> callback) {
  const std::lock_guard lock(impl_->callbackLock);
  impl_->failureCallback = std::move(callback);
}

void GuestMemory::retryFailed() noexcept {
  impl_->retries.fetch_add(1, std::memory_order_acq_rel);
  impl_->retries.notify_all();
}

void GuestMemory::abandon() noexcept {
  impl_->abandoned.store(true, std::memory_order_release);
  retryFailed();
}

GuestMemory::Counters GuestMemory::counters() const noexcept {
  return {impl_->faults.load(std::memory_order_relaxed),
          impl_->waits.load(std::memory_order_relaxed), impl_->engine->mappings(),
          impl_->widened.load(std::memory_order_relaxed)};
}

}  // namespace ckptfs
