#include "memory/memory_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <string>

#include "base/error.h"

namespace ckptfs {
namespace {

// Memory that the guest never uses is taken along with what it does; so only files up to this
// share of the memory that the host could give now are in huge pages.
constexpr uint64_t kHugeShare = 2;

/** Bytes that the host could give without swapping; 0 if it does not tell. */
uint64_t availableBytes() {
  std::ifstream info("/proc/meminfo");
  std::string name, unit;
  for (uint64_t kib = 0; info >> name >> kib && std::getline(info, unit);)
    if (name == "MemAvailable:") return kib << 10;
  return 0;
}

/** A file in a tmpfs of its own that has huge pages, whatever the host gives memfds. The mount is
 * attached nowhere and ends with the file. Negative where the kernel or its rights (CAP_SYS_ADMIN)
 * do not allow that. */
int openHugeFile() {
  const int context = fsopen("tmpfs", FSOPEN_CLOEXEC);
  if (context < 0) return -1;
  int file = -1;
  // Up to the end of the file only, so that it does not take more than its size.
  if (fsconfig(context, FSCONFIG_SET_STRING, "huge", "within_size", 0) == 0 &&
      fsconfig(context, FSCONFIG_SET_STRING, "size", "0", 0) == 0 &&  // 0: no limit
      fsconfig(context, FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) == 0) {
    const int mount = fsmount(context, FSMOUNT_CLOEXEC, 0);
    if (mount >= 0) {
      file = openat(mount, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
      close(mount);
    }
  }
  close(context);
  return file;
}

int openFile(uint64_t bytes) {
  const int huge = bytes <= availableBytes() / kHugeShare ? openHugeFile() : -1;
  return huge >= 0 ? huge : memfd_create("ckptfs-ram", MFD_CLOEXEC);
}

}  // namespace

MemoryFile::MemoryFile(uint64_t bytes) : fd_(openFile(bytes)) {
  if (fd_ < 0) throwErrno(errno, "cannot create guest memory");
  if (ftruncate(fd_, static_cast<off_t>(bytes)) != 0) {
    const int err = errno;
    close(fd_);
    throwErrno(err, "cannot size guest memory to " + std::to_string(bytes) + " bytes");
  }
}

MemoryFile::~MemoryFile() {
  close(fd_);
}

}  // namespace ckptfs
