// The modification time of a file, which identifies the parent of a disk.
#pragma once

#include <cstdint>
#include <string>

namespace ckptfs {

/** Sets it, in nanoseconds since 1970, of the file itself where the path is a symbolic link.
 * JavaScript's own call keeps no more than microseconds. Throws Error: notFound, io. */
void setModified(const std::string& path, uint64_t nanoseconds);

}  // namespace ckptfs
