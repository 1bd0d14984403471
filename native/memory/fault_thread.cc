#include "memory/fault_thread.h"

#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <mutex>
#include <vector>

#include "base/error.h"

namespace ckptfs {
namespace {

// A handler copies a block, or reads and decompresses one: some KiB. The rest is room for
// sanitizers and for a handler that is chained to; untouched pages cost nothing.
constexpr size_t kStackBytes = 256 * 1024;

std::mutex indexLock;
std::vector<bool> indexTaken;

unsigned takeIndex() {
  const std::lock_guard lock(indexLock);
  const auto free = std::find(indexTaken.begin(), indexTaken.end(), false);
  const auto index = static_cast<unsigned>(free - indexTaken.begin());
  if (free == indexTaken.end())
    indexTaken.push_back(true);
  else
    *free = true;
  return index;
}

void giveIndex(unsigned index) {
  const std::lock_guard lock(indexLock);
  indexTaken[index] = false;
}

class Attachment {
 public:
  Attachment() {
    memory_ = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
    if (memory_ == MAP_FAILED) throwErrno(errno, "cannot allocate a signal stack");
    stack_t stack = {};
    stack.ss_sp = memory_;
    stack.ss_size = kStackBytes;
    if (sigaltstack(&stack, &before_) != 0) {
      const int err = errno;
      munmap(memory_, kStackBytes);
      throwErrno(err, "cannot set a signal stack");
    }
    index_ = takeIndex();
  }
  ~Attachment() {
    sigaltstack(&before_, nullptr);  // whoever set it takes it away itself
    munmap(memory_, kStackBytes);
    giveIndex(index_);
  }
  Attachment(const Attachment&) = delete;
  Attachment& operator=(const Attachment&) = delete;
  unsigned index() const { return index_; }

 private:
  void* memory_ = nullptr;
  stack_t before_ = {};
  unsigned index_ = 0;
};

struct ThreadState {
  unsigned index = kNoThreadIndex;
  sigjmp_buf* escape = nullptr;
  const void* chainInfo = nullptr;
  const void* chainFrame = nullptr;
};
thread_local ThreadState state;

}  // namespace

void attachFaultThread() {
  thread_local Attachment attachment;
  state.index = attachment.index();
}

unsigned faultThreadIndex() noexcept {
  return state.index;
}

bool runGuarded(const std::function<void()>& function) noexcept {
  sigjmp_buf buffer;
  sigjmp_buf* const outer = state.escape;
  if (sigsetjmp(buffer, 1) !=
      0) {  // 1: the mask, which the handler's entry changed, comes back too
    state.escape = outer;
    return false;
  }
  state.escape = &buffer;
  function();
  state.escape = outer;
  return true;
}

void escapeGuarded() noexcept {
  if (state.escape != nullptr) siglongjmp(*state.escape, 1);
}

bool enterChain(const void* siginfo, const void* frame) noexcept {
  // The stack grows down: a call from inside the chain has a lower frame and the same siginfo.
  const bool ring = siginfo == state.chainInfo && std::less<>()(frame, state.chainFrame);
  state.chainInfo = siginfo;
  state.chainFrame = frame;
  return !ring;
}

}  // namespace ckptfs
