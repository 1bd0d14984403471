// Differences of two images, against a comparison of their contents byte by byte.
#include "checkpoint/upkeep/diff.h"

#include <doctest/doctest.h>

#include "base/error.h"
#include "image_builder.h"
#include "temp_directory.h"

using namespace ckptfs;

namespace {

constexpr Geometry kSmall{.pageBytes = 4096, .pagesPerBlock = 1, .blocksPerIoBlock = 3};
constexpr uint64_t kBlocks = 100;

/** What diffMemoryImages() must find. */
MemoryDiff expected(const Contents& before, const Contents& after, uint64_t blockBytes) {
  MemoryDiff diff{before.size(), blockBytes, before.size() / blockBytes, 0, 0, {}, false};
  for (uint64_t at = 0; at < before.size(); at += blockBytes) {
    if (std::memcmp(before.data() + at, after.data() + at, blockBytes) == 0) continue;
    ++diff.changedBlocks;
    diff.changedBytes += blockBytes;
    if (!diff.ranges.empty() && diff.ranges.back().offset + diff.ranges.back().bytes == at)
      diff.ranges.back().bytes += blockBytes;
    else
      diff.ranges.push_back({at, blockBytes});
  }
  return diff;
}

void checkEqual(const MemoryDiff& a, const MemoryDiff& b) {
  CHECK(a.memoryBytes == b.memoryBytes);
  CHECK(a.blockBytes == b.blockBytes);
  CHECK(a.blocks == b.blocks);
  CHECK(a.changedBlocks == b.changedBlocks);
  CHECK(a.changedBytes == b.changedBytes);
  CHECK(a.truncated == b.truncated);
  REQUIRE(a.ranges.size() == b.ranges.size());
  for (size_t i = 0; i < a.ranges.size(); ++i) {
    CHECK(a.ranges[i].offset == b.ranges[i].offset);
    CHECK(a.ranges[i].bytes == b.ranges[i].bytes);
  }
}

MemoryDiff diffOf(const std::string& before, const std::string& after,
                  const DiffOptions& options = {}) {
  Progress progress;
  return diffMemoryImages(before, after, progress, options);
}

/** Two generations: some blocks change, some to zeros, some only in form. */
struct TwoImages {
  explicit TwoImages(uint64_t seed) : before(someContents(kSmall, kBlocks, seed)), after(before) {
    std::mt19937_64 random(seed);
    for (int i = 0; i < 20; ++i)
      fillBlock(after, kSmall, random() % kBlocks, static_cast<Filling>(random() % 3),
                random() % 50);
    writeImage(one, before, {.geometry = kSmall});
    writeImage(increment, after, {.geometry = kSmall, .base = one});
    writeImage(full, after, {.geometry = kSmall, .codec = format::Codec::zstd, .aliases = false});
  }
  const TempDirectory directory;
  const std::string one = directory.make("one"), increment = directory.make("increment"),
                    full = directory.make("full");
  Contents before, after;
};

}  // namespace

TEST_CASE("diff: increments and full copies differ where their contents do") {
  for (uint64_t seed = 0; seed < 8; ++seed) {
    CAPTURE(seed);
    const TwoImages images(seed);
    const MemoryDiff truth = expected(images.before, images.after, kSmall.blockBytes());
    CHECK(truth.changedBlocks > 0);
    checkEqual(diffOf(images.one, images.increment), truth);
    checkEqual(diffOf(images.increment, images.one), truth);
    checkEqual(diffOf(images.one, images.full), truth);
    CHECK(diffOf(images.full, images.increment).changedBlocks == 0);
    CHECK(diffOf(images.one, images.one).ranges.empty());
  }
}

TEST_CASE("diff: shared bodies are not read") {
  const TwoImages images(1);
  // Every body of the shared segments is damaged; what did not change is known all the same.
  const MemoryMap map = MemoryMap::read(images.one + "/" + MemoryMap::kFileName);
  const TempDirectory directory;
  const std::string same = directory.make("same");
  writeImage(same, images.before, {.geometry = kSmall, .base = images.one});
  for (const format::MapIoBlock& io : map.ioBlocks) {
    const std::string file = images.one + "/" + map.segmentName(io.segment);
    std::vector<char> junk(io.bytes - format::bodiesAt(io.count), 'x');
    FILE* const out = fopen(file.c_str(), "r+");
    REQUIRE(out != nullptr);
    fseek(out, static_cast<long>(io.offset + format::bodiesAt(io.count)), SEEK_SET);
    fwrite(junk.data(), 1, junk.size(), out);
    fclose(out);
  }
  CHECK(diffOf(images.one, same).changedBlocks == 0);
  CHECK_THROWS_AS(diffOf(images.one, images.full), Error);
}

TEST_CASE("diff: other geometries are compared in the smaller blocks") {
  const TwoImages images(3);
  const TempDirectory directory;
  for (const Geometry geometry :
       {Geometry{4096, 4, 2}, Geometry{4096, 5, 7}, Geometry{8192, 1, 3}}) {
    CAPTURE(geometry.blockBytes());
    const std::string other = directory.make("other");
    writeImage(other, images.after, {.geometry = geometry});
    checkEqual(diffOf(images.one, other), expected(images.before, images.after, 4096));
    checkEqual(diffOf(other, images.one), expected(images.before, images.after, 4096));
    std::filesystem::remove_all(other);
  }
}

TEST_CASE("diff: ranges are limited, the count is not") {
  const TwoImages images(4);
  const MemoryDiff truth = expected(images.before, images.after, kSmall.blockBytes());
  REQUIRE(truth.ranges.size() > 3);
  const MemoryDiff diff = diffOf(images.one, images.full, {.maxRanges = 3});
  CHECK(diff.truncated);
  CHECK(diff.ranges.size() == 3);
  CHECK(diff.changedBlocks == truth.changedBlocks);
  CHECK_FALSE(diffOf(images.one, images.full, {.maxRanges = truth.ranges.size()}).truncated);
}

TEST_CASE("diff: refusals, damage, progress and cancellation") {
  const TwoImages images(5);
  const TempDirectory directory;
  const std::string shorter = directory.make("shorter");
  writeImage(shorter, Contents(10 * 4096), {.geometry = kSmall});
  CHECK_THROWS_WITH_AS(diffOf(images.one, shorter),
                       doctest::Contains("choose checkpoints of one VM"), Error);
  CHECK_THROWS_AS(diffOf(images.one, images.one + "/none"), Error);

  uint64_t done = 0;
  Progress progress([&](uint64_t bytes, uint64_t total) {
    done = bytes;
    CHECK(total == kBlocks * 4096);
  });
  diffMemoryImages(images.one, images.full, progress);
  CHECK(done == kBlocks * 4096);

  Progress cancelled;
  cancelled.cancel();
  CHECK_THROWS_WITH_AS(diffMemoryImages(images.one, images.full, cancelled), "cancelled", Error);
}
