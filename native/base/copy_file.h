// Copying a file by the kernel: the bytes do not pass this process, and holes stay holes.
#pragma once

#include <cstdint>
#include <string>

#include "base/progress.h"

namespace ckptfs {

/** Copies the first `bytes` of `source`, from `from` on, to the same place in `target`, which is
 * made (mode 0600) if it is not there, and is `bytes` long afterwards. What it holds before `from`
 * stays; neither path may be a symbolic link. Not durable yet. Throws Error: notFound, noSpace, io
 * (also when the source is shorter), cancelled. */
void copyFile(const std::string& source, const std::string& target, uint64_t from, uint64_t bytes,
              Progress& progress);

}  // namespace ckptfs
