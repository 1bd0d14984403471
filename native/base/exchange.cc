#include "base/exchange.h"

#include <fcntl.h>
#include <stdio.h>

#include <cerrno>

#include "base/error.h"

namespace ckptfs {

void exchangeDirectories(const std::string& one, const std::string& other) {
  if (renameat2(AT_FDCWD, one.c_str(), AT_FDCWD, other.c_str(), RENAME_EXCHANGE) == 0) return;
  const int err = errno;
  const std::string what = "cannot exchange " + one + " and " + other;
  if (err == EINVAL || err == ENOSYS || err == ENOTSUP)
    throw Error(Code::unsupported,
                what + ": the filesystem cannot do that; ext4, xfs, btrfs and tmpfs can");
  throwErrno(err, what);
}

}  // namespace ckptfs
