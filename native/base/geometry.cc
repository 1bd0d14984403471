#include "base/geometry.h"

#include <bit>
#include <string>

#include "base/error.h"

namespace ckptfs {

void validate(const Geometry& g, uint64_t memoryBytes) {
  if (!std::has_single_bit(g.pageBytes) || g.pageBytes < 4096 || g.pageBytes > (1u << 21))
    throw Error(Code::usage, "page size " + std::to_string(g.pageBytes) +
                                 " is not a power of two between 4 KiB and 2 MiB");
  if (g.pagesPerBlock < 1 || g.pagesPerBlock > 256 || g.blocksPerIoBlock < 1 ||
      g.blocksPerIoBlock > 256)
    throw Error(Code::usage, "pages per block and blocks per IO block must be between 1 and 256");
  if (memoryBytes == 0 || memoryBytes % g.blockBytes() != 0)
    throw Error(Code::usage, "guest memory of " + std::to_string(memoryBytes) +
                                 " bytes is not a whole number of " +
                                 std::to_string(g.blockBytes()) +
                                 "-byte memory blocks; choose a multiple");
}

}  // namespace ckptfs
