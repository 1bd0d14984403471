// Writes checkpoints' memory images for other tests: image-chain SEED BLOCKS DIRECTORY...
//
// The first directory gets a full image of random contents, each other one an increment on the one
// before, with a third of the blocks changed. Blocks are those of the default geometry. Prints the
// xxh3-64 of each memory in hexadecimal, a line each.
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <exception>

#include "test/checkpoint/image_builder.h"

using namespace ckptfs;

int main(int count, char** arguments) {
  if (count < 4) {
    std::fprintf(stderr, "usage: image-chain SEED BLOCKS DIRECTORY...\n");
    return 2;
  }
  try {
    const uint64_t seed = std::strtoull(arguments[1], nullptr, 10);
    const uint64_t blocks = std::strtoull(arguments[2], nullptr, 10);
    const Geometry geometry;
    std::mt19937_64 random(seed);
    Contents memory = someContents(geometry, blocks, seed);
    for (int i = 3; i < count; ++i) {
      const std::string base = i == 3 ? "" : arguments[i - 1];
      writeImage(arguments[i], memory, {.geometry = geometry, .base = base});
      std::printf("%016" PRIx64 "\n", format::checksumOf(memory));
      for (uint64_t n = 0; n < blocks / 3; ++n)
        fillBlock(memory, geometry, random() % blocks, static_cast<Filling>(random() % 3),
                  random());
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "image-chain: %s\n", error.what());
    return 1;
  }
  return 0;
}
