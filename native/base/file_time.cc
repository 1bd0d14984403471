#include "base/file_time.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>

#include "base/error.h"

namespace ckptfs {

void setModified(const std::string& path, uint64_t nanoseconds) {
  constexpr uint64_t kSecond = 1'000'000'000;
  const timespec times[2] = {
      {.tv_sec = 0, .tv_nsec = UTIME_OMIT},
      {.tv_sec = time_t(nanoseconds / kSecond), .tv_nsec = long(nanoseconds % kSecond)}};
  if (utimensat(AT_FDCWD, path.c_str(), times, AT_SYMLINK_NOFOLLOW) != 0)
    throwErrno(errno, "cannot set the time of " + path);
}

}  // namespace ckptfs
