// Holes in files.
#pragma once

#include <cstdint>

namespace ckptfs {

/** The range reads as zeros afterwards and takes no room; false where that cannot be. */
bool punchHole(int fd, uint64_t offset, uint64_t bytes) noexcept;

}  // namespace ckptfs
