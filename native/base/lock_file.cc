#include "base/lock_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>

#include "base/error.h"

namespace ckptfs {

std::unique_ptr<LockFile> LockFile::take(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0) throwErrno(errno, "cannot open lock file " + path);
  std::unique_ptr<LockFile> lock(new LockFile(fd));
  if (::flock(fd, LOCK_EX | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK) return nullptr;
    throwErrno(errno, "cannot lock " + path);
  }
  const std::string pid = std::to_string(::getpid()) + "\n";
  if (::ftruncate(fd, 0) != 0 || ::pwrite(fd, pid.data(), pid.size(), 0) != ssize_t(pid.size()))
    throwErrno(errno, "cannot write lock file " + path);
  return lock;
}

LockFile::~LockFile() {
  ::close(fd_);
}

}  // namespace ckptfs
