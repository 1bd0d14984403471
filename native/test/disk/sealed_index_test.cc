// The index of sealed logs: it says what the growing ones said, alone and merged.
#include "disk/sealed_index.h"

#include "test/disk/scratch.h"

namespace ckptfs {
namespace {

constexpr uint64_t kBlocks = 500;

struct Cell {
  RedoIndex::Kind kind = RedoIndex::Kind::absent;
  BlockLocation at;
};

/** A log of its own, number `log`, which acts on the table as it is written. */
RedoIndex randomLog(Random& random, uint16_t log, std::vector<Cell>& table) {
  RedoIndex index;
  for (uint64_t steps = random() % 60; steps > 0; --steps) {
    const uint64_t first = random() % kBlocks;
    const uint64_t count = std::min(kBlocks - first, 1 + random() % (random() % 8 == 0 ? 200 : 5));
    if (random() % 4 == 0) {
      index.zero(first, count);
      std::fill_n(table.begin() + ptrdiff_t(first), count, Cell{RedoIndex::Kind::zeroes, {}});
      continue;
    }
    const uint64_t offset = 512 + random() % 1000 * 512;
    std::vector<uint64_t> checksums(count);
    for (uint64_t i = 0; i < count; ++i) {
      checksums[i] = random();
      table[first + i] = {RedoIndex::Kind::data, {offset + i * 4096, checksums[i], log}};
    }
    index.put(first, offset, 4096, checksums);
  }
  return index;
}

TEST_CASE("sealed index: merged, it says what the newest log says that has a block") {
  Random random(5);
  for (int round = 0; round < 200; ++round) {
    std::vector<Cell> table(kBlocks);
    SealedIndex merged{randomLog(random, 0, table)};
    const uint64_t logs = 1 + random() % 5;
    for (uint16_t log = 1; log < logs; ++log)
      merged = SealedIndex::merge(merged, SealedIndex(randomLog(random, log, table)), log);
    RedoIndex::Locations at;
    uint64_t wrong = 0;
    for (uint64_t block = 0; block < kBlocks;) {
      const uint64_t asked = std::min<uint64_t>(kBlocks - block, 1 + random() % 300);
      const auto run = merged.find(block, asked, at);
      REQUIRE(run.count >= 1);
      REQUIRE(run.count <= asked);
      for (uint64_t i = 0; i < run.count; ++i) {
        wrong += table[block + i].kind != run.kind;
        if (run.kind == RedoIndex::Kind::data) wrong += table[block + i].at != at[i];
      }
      block += run.count;
    }
    REQUIRE(wrong == 0);
    for (size_t i = 1; i < merged.entries().size(); ++i)
      REQUIRE(merged.entries()[i - 1].block < merged.entries()[i].block);
    for (size_t i = 1; i < merged.extents().size(); ++i) {
      const ZeroExtent& before = merged.extents()[i - 1];
      REQUIRE(before.first + before.count < merged.extents()[i].first);
    }
  }
}

TEST_CASE("sealed index: of nothing") {
  RedoIndex::Locations at;
  const auto run = SealedIndex().find(7, 100, at);
  CHECK(run.kind == RedoIndex::Kind::absent);
  CHECK(run.count == 100);
  CHECK(SealedIndex::merge({}, {}, 1).entries().empty());
}

}  // namespace
}  // namespace ckptfs
