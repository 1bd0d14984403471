// The index against the plainest model of it: one entry a block.
#include "disk/redo_index.h"

#include <malloc.h>

#include <map>

#include "test/disk/scratch.h"

namespace ckptfs {
namespace {

constexpr uint64_t kBlocks = 700;

struct Cell {
  RedoIndex::Kind kind = RedoIndex::Kind::absent;
  BlockLocation at;
};

TEST_CASE("redo index: random puts and zeroes agree with a table") {
  Random random(1);
  RedoIndex index;
  std::vector<Cell> table(kBlocks);
  RedoIndex::Locations locations;
  for (int step = 0; step < 4000; step++) {
    const uint64_t first = random() % kBlocks;
    const uint64_t most = random() % 4 == 0 ? 300 : 9;
    const uint64_t count = std::min(kBlocks - first, 1 + random() % most);
    if (random() % 3 == 0) {
      index.zero(first, count);
      for (uint64_t i = 0; i < count; i++) table[first + i] = {RedoIndex::Kind::zeroes, {}};
    } else {
      const uint64_t offset = (random() % 1000) * 512;
      std::vector<uint64_t> checksums(count);
      for (auto& sum : checksums) sum = random();
      index.put(first, offset, 4096, checksums);
      for (uint64_t i = 0; i < count; i++)
        table[first + i] = {RedoIndex::Kind::data, {offset + i * 4096, checksums[i], 0}};
    }
    if (step % 500 == 499) index = RedoIndex();
    if (step % 500 == 499) table.assign(kBlocks, {});
    const uint64_t limit = 1 + random() % kBlocks;
    uint64_t wrong = 0, dataBlocks = 0;
    for (uint64_t block = 0; block < kBlocks;) {
      const uint64_t asked = std::min(limit, kBlocks - block);
      const auto run = index.find(block, asked, locations);
      REQUIRE(run.count >= 1);
      REQUIRE(run.count <= asked);
      for (uint64_t i = 0; i < run.count; i++) {
        wrong += table[block + i].kind != run.kind;
        if (run.kind == RedoIndex::Kind::data) wrong += table[block + i].at != locations[i];
      }
      // Runs are as long as they can be, so that reads stay large.
      const uint64_t next = block + run.count;
      if (run.count < asked &&
          !(run.kind == RedoIndex::Kind::data && run.count == RedoIndex::kRunBlocks))
        wrong += table[next].kind == run.kind;
      block = next;
    }
    for (const Cell& cell : table) dataBlocks += cell.kind == RedoIndex::Kind::data;
    REQUIRE(wrong == 0);
    REQUIRE(index.dataBlocks() == dataBlocks);
    REQUIRE(index.entries().size() == dataBlocks);
  }
}

TEST_CASE("redo index: far more blocks than a leaf has, in any order") {
  Random random(2);
  RedoIndex index;
  std::map<uint64_t, BlockLocation> table;
  for (int step = 0; step < 20000; step++) {
    // In order from somewhere, or anywhere; now and then a range goes.
    const uint64_t first = random() % (1 << 16);
    const uint64_t count = random() % 8 == 0 ? 1 + random() % 700 : 1;
    if (random() % 50 == 0) {
      index.zero(first, count);
      table.erase(table.lower_bound(first), table.lower_bound(first + count));
      continue;
    }
    std::vector<uint64_t> checksums(count);
    for (auto& sum : checksums) sum = random();
    const uint64_t offset = random() % (1 << 20) * 512;
    index.put(first, offset, 4096, checksums);
    for (uint64_t i = 0; i < count; i++) table[first + i] = {offset + i * 4096, checksums[i], 0};
  }
  std::vector<IndexEntry> expected;
  for (const auto& [block, at] : table) expected.push_back({block, at.offset, at.checksum});
  CHECK(index.entries() == expected);
  CHECK(index.dataBlocks() == expected.size());
  RedoIndex::Locations locations;
  uint64_t wrong = 0;
  for (const IndexEntry& entry : expected) {
    const auto run = index.find(entry.block, 1, locations);
    wrong += run.kind != RedoIndex::Kind::data ||
             locations[0] != BlockLocation{entry.offset, entry.checksum, 0};
  }
  CHECK(wrong == 0);
  // Made in another order, it is the same.
  RedoIndex other;
  for (const ZeroExtent& extent : index.extents()) other.zero(extent.first, extent.count);
  for (const IndexEntry& entry : expected)
    other.put(entry.block, entry.offset, 4096, {&entry.checksum, 1});
  CHECK(other.entries() == index.entries());
  CHECK(other.extents() == index.extents());
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // they have other allocators
TEST_CASE("redo index: 16 MiB are enough for a GiB written at random to a disk of 16 TiB") {
  constexpr uint64_t kBlocksOfDisk = uint64_t{1} << 32, kWritten = 1 << 18;
  const auto used = [] { return mallinfo2().uordblks + mallinfo2().hblkhd; };
  Random random(3);
  const size_t before = used();
  RedoIndex index;
  for (uint64_t i = 0; i < kWritten; i++) {
    const uint64_t checksum = random();
    index.put(random() % kBlocksOfDisk, i * 4096, 4096, {&checksum, 1});
  }
  const size_t bytes = used() - before;
  CAPTURE(bytes);
  CHECK(bytes > kWritten * 24);
  CHECK(bytes <= 16 << 20);
}
#endif

TEST_CASE("redo index: zeroed ranges join, and one covers any disk") {
  RedoIndex index;
  index.zero(10, 5);
  index.zero(20, 5);
  CHECK(index.extents() == std::vector<ZeroExtent>{{10, 5}, {20, 5}});
  index.zero(15, 5);
  CHECK(index.extents() == std::vector<ZeroExtent>{{10, 15}});
  index.zero(0, uint64_t{1} << 50);
  CHECK(index.extents() == std::vector<ZeroExtent>{{0, uint64_t{1} << 50}});
  const uint64_t sum = 7;
  index.put(uint64_t{1} << 49, 512, 4096, {&sum, 1});
  CHECK(index.entries() == std::vector<IndexEntry>{{uint64_t{1} << 49, 512, 7}});
  RedoIndex::Locations locations;
  const auto run = index.find(0, uint64_t{1} << 50, locations);
  CHECK(run.kind == RedoIndex::Kind::zeroes);
  CHECK(run.count == uint64_t{1} << 49);
}

}  // namespace
}  // namespace ckptfs
