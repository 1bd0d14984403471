#include "base/hole.h"

#include <fcntl.h>
#include <linux/falloc.h>

namespace ckptfs {

bool punchHole(int fd, uint64_t offset, uint64_t bytes) noexcept {
  return fallocate(fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, off_t(offset), off_t(bytes)) ==
         0;
}

}  // namespace ckptfs
