#include <doctest/doctest.h>

#include "test/checkpoint/image_builder.h"
#include "test/checkpoint/temp_directory.h"

namespace ckptfs {

TEST_CASE("blocks of zeros are holes of a memory image") {
  const Geometry geometry;
  const uint64_t blockBytes = geometry.blockBytes();
  Contents memory(40 * blockBytes);
  for (const BlockId block : {0, 1, 17, 39})
    fillBlock(memory, geometry, block, Filling::noise, block + 1);
  const TempDirectory directory;
  writeImage(directory.path(), memory, {.geometry = geometry});
  const MemoryImage image(directory.path());

  const auto check = [&](uint64_t offset, uint64_t bytes, bool hole) {
    const ByteRun run = image.run(offset);
    CHECK(run.bytes == bytes);
    CHECK(run.hole == hole);
  };
  check(0, 2 * blockBytes, false);
  check(5, 2 * blockBytes - 5, false);
  check(2 * blockBytes, 15 * blockBytes, true);
  check(16 * blockBytes + 1, blockBytes - 1, true);
  check(17 * blockBytes, blockBytes, false);
  check(40 * blockBytes - 1, 1, false);
}

}  // namespace ckptfs
