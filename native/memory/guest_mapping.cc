#include "memory/guest_mapping.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <string>

#include "base/error.h"

namespace ckptfs {
namespace {

// Mappings start at a multiple of this, so that huge pages of the file can be mapped as such, and
// ask for them, for a memfd on hosts whose shmem_enabled is `advise`. Protecting 512 MiB then took
// 0.1 to 4 ms instead of 15, a fault 13 µs either way.
constexpr uint64_t kHugePageBytes = 2 << 20;

[[noreturn]] void failToMap(uint64_t bytes) {
  throwErrno(errno, "cannot map " + std::to_string(bytes) + " bytes of guest memory");
}

}  // namespace

GuestMapping::GuestMapping(int fd, uint64_t bytes) : reservedBytes_(bytes + 2 * kHugePageBytes) {
  reserved_ =
      mmap(nullptr, reservedBytes_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (reserved_ == MAP_FAILED) failToMap(bytes);
  const auto start = reinterpret_cast<uintptr_t>(reserved_);
  base_ = static_cast<std::byte*>(reserved_) + (kHugePageBytes - start % kHugePageBytes);
  if (mmap(base_, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE | MAP_FIXED, fd, 0) ==
      MAP_FAILED) {
    const int err = errno;
    munmap(reserved_, reservedBytes_);
    errno = err;
    failToMap(bytes);
  }
  madvise(base_, bytes, MADV_HUGEPAGE);  // a hint: the host may know no huge pages
}

GuestMapping::~GuestMapping() {
  munmap(reserved_, reservedBytes_);
}

}  // namespace ckptfs
