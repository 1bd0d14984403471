// Where data and holes begin.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>

#include "base/byte_source.h"

namespace ckptfs::fuse {

/** The first place from `offset` on that is a hole, or that is none; the end of the file is a hole.
 *  Nothing (ENXIO) when there is none any more, as when `offset` is beyond the end. Goes as far as
 *  the source has to be looked at; a source that cannot tell has no holes. */
inline std::optional<uint64_t> seekRun(const ByteSource& source, uint64_t offset, bool hole) {
  const uint64_t size = source.size();
  while (offset < size) {
    const ByteRun run = source.run ? source.run(offset) : ByteRun{size - offset, false};
    if (run.hole == hole) return offset;
    offset += std::clamp<uint64_t>(run.bytes, 1, size - offset);
    if (hole && offset == size) return size;
  }
  return std::nullopt;
}

}  // namespace ckptfs::fuse
