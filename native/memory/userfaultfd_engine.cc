#include "memory/userfaultfd_engine.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>

#include "base/error.h"

// Both came with Linux 6.4, as UFFD_FEATURE_WP_UNPOPULATED did, which stands for them below.
#ifndef UFFDIO_CONTINUE_MODE_WP
#define UFFDIO_CONTINUE_MODE_WP (uint64_t{1} << 1)
#endif
#ifndef UFFD_FEATURE_WP_UNPOPULATED
#define UFFD_FEATURE_WP_UNPOPULATED (1 << 13)
#endif

namespace ckptfs {
namespace {

constexpr uint64_t kFeatures = UFFD_FEATURE_SIGBUS | UFFD_FEATURE_MISSING_SHMEM |
                               UFFD_FEATURE_MINOR_SHMEM | UFFD_FEATURE_PAGEFAULT_FLAG_WP |
                               UFFD_FEATURE_WP_HUGETLBFS_SHMEM | UFFD_FEATURE_WP_UNPOPULATED;
constexpr uint64_t kAllModes =
    UFFDIO_REGISTER_MODE_WP | UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR;

/** ioctl() again while another thread changes the address space. */
int tryIoctl(int fd, unsigned long request, void* argument) noexcept {
  int result;
  do result = ioctl(fd, request, argument);
  while (result != 0 && (errno == EAGAIN || errno == EINTR));
  return result;
}

int openUserfaultfd() {
  // Only accesses of guest code are to trap; the kernel's own never touch the guest view.
  const int fd = static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY));
  if (fd < 0)
    throw Error(Code::unsupported,
                std::string("userfaultfd: ") + std::strerror(errno) + "; use another trace engine");
  uffdio_api api = {};
  api.api = UFFD_API;
  api.features = kFeatures;
  if (ioctl(fd, UFFDIO_API, &api) == 0) return fd;
  close(fd);
  throw Error(
      Code::unsupported,
      "userfaultfd: this kernel lacks features (Linux 6.4 has them); use another trace engine");
}

}  // namespace

UserfaultfdEngine::UserfaultfdEngine(const GuestView& view, FaultSink* sink)
    : view_(view),
      rights_(view.blocks(), Rights::all),
      hostPageBytes_(static_cast<uint64_t>(sysconf(_SC_PAGESIZE))),
      fd_(openUserfaultfd()),
      registration_(SIGBUS, view.base, view.bytes, sink) {
  if (enlist(UFFDIO_REGISTER_MODE_WP)) return;
  const int err = errno;
  close(fd_);
  throwErrno(err, "cannot register guest memory with userfaultfd");
}

UserfaultfdEngine::~UserfaultfdEngine() {
  close(fd_);
}

bool UserfaultfdEngine::enlist(uint64_t modes) noexcept {
  uffdio_register call = {};
  call.range = {reinterpret_cast<uintptr_t>(view_.base), view_.bytes};
  call.mode = modes;
  return tryIoctl(fd_, UFFDIO_REGISTER, &call) == 0;
}

bool UserfaultfdEngine::writeProtect(BlockRange run, bool on) noexcept {
  uffdio_writeprotect call = {};
  call.range = {reinterpret_cast<uintptr_t>(view_.base) + view_.geometry.offsetOf(run.first),
                run.count * view_.geometry.blockBytes()};
  call.mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0;
  return tryIoctl(fd_, UFFDIO_WRITEPROTECT, &call) == 0;
}

/** Makes translations for the pages of a run that have none. False: a page is a hole. */
bool UserfaultfdEngine::translate(BlockRange run, bool writable) const noexcept {
  uint64_t at = view_.geometry.offsetOf(run.first);
  const uint64_t end = view_.geometry.offsetOf(run.end());
  while (at < end) {
    uffdio_continue call = {};
    call.range = {reinterpret_cast<uintptr_t>(view_.base) + at, end - at};
    call.mode = UFFDIO_CONTINUE_MODE_DONTWAKE | (writable ? 0 : UFFDIO_CONTINUE_MODE_WP);
    if (ioctl(fd_, UFFDIO_CONTINUE, &call) == 0) return true;
    if (call.mapped > 0)
      at += static_cast<uint64_t>(call.mapped);
    else if (errno == EEXIST)
      at += hostPageBytes_;
    else if (errno != EAGAIN && errno != EINTR)
      return false;
  }
  return true;
}

bool UserfaultfdEngine::isHole(BlockId block) const noexcept {
  const uint64_t begin = view_.geometry.offsetOf(block);
  const off_t data = lseek(view_.fd, static_cast<off_t>(begin), SEEK_DATA);
  if (data < 0) return errno == ENXIO;
  return static_cast<uint64_t>(data) >= begin + view_.geometry.blockBytes();
}

BlockId UserfaultfdEngine::sameUntil(BlockId from, BlockId end) const noexcept {
  const Rights rights = rights_[from];
  while (from < end && rights_[from] == rights) ++from;
  return from;
}

void UserfaultfdEngine::note(BlockRange run, Rights rights) noexcept {
  std::fill_n(rights_.begin() + static_cast<ptrdiff_t>(run.first), run.count, rights);
}

bool UserfaultfdEngine::protect(BlockRange run, Rights rights) noexcept {
  if (rights == Rights::none) {
    if (!demandsPages_ && !enlist(kAllModes)) return false;
    demandsPages_ = true;
    note(run, Rights::none);
    return true;
  }
  for (BlockId first = run.first, end; first < run.end(); first = end) {
    end = sameUntil(first, run.end());
    if (rights_[first] != Rights::all) continue;
    if (!writeProtect({first, end - first}, true)) return false;
    note({first, end - first}, Rights::read);
  }
  return true;
}

// A page may have lost its translation since it was permitted (the host swaps), and a hole of a
// permitted block has none. So while missing pages trap, each call makes all of them, and rights_
// may claim more than can be had without another fault; never less, or protect() would miss a page.
bool UserfaultfdEngine::permit(BlockRange run, Rights rights) noexcept {
  if (rights == Rights::all) {
    if (!writeProtect(run, false)) return false;
    note(run, Rights::all);
  }
  if (!demandsPages_) return true;
  const uint64_t offset = view_.geometry.offsetOf(run.first);
  if (fallocate(view_.fd, 0, static_cast<off_t>(offset),
                static_cast<off_t>(run.count * view_.geometry.blockBytes())) != 0)
    return false;
  for (BlockId first = run.first, end; first < run.end(); first = end) {
    end = sameUntil(first, run.end());
    const Rights now = std::max(rights_[first], rights);
    note({first, end - first}, now);
    if (!translate({first, end - first}, now == Rights::all)) return false;
  }
  return true;
}

void UserfaultfdEngine::permitAhead(BlockRange run, Rights rights) noexcept {
  for (BlockId first = run.first, end; first < run.end(); first = end) {
    end = sameUntil(first, run.end());
    if (rights_[first] >= rights) continue;
    if (rights_[first] == Rights::read) {
      if (!writeProtect({first, end - first}, false)) continue;
      note({first, end - first}, Rights::all);
      continue;
    }
    // A hole stays one, and traps when it is needed: most of a small guest's RAM is never touched.
    end = first + 1;
    if (isHole(first)) continue;
    while (end < run.end() && rights_[end] == Rights::none && !isHole(end)) ++end;
    note({first, end - first}, rights);
    translate({first, end - first}, rights == Rights::all);
  }
}

}  // namespace ckptfs
