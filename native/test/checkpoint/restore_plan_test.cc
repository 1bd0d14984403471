#include "checkpoint/restore/restore_plan.h"

#include <doctest/doctest.h>

#include <algorithm>

#include "checkpoint/restore/need_recorder.h"

using namespace ckptfs;
using format::Codec;
using format::SegmentKind;

namespace {

const Geometry kGeometry{.pageBytes = 4096, .pagesPerBlock = 1, .blocksPerIoBlock = 2};

/** Two checkpoints with a hot and a cold segment each, one IO block for each segment and a second
 * one for the newer hot segment. Block 5 is zero, block 6 an alias. Only tables that a plan reads.
 */
MemoryMap sampleMap() {
  MemoryMap map;
  map.geometry = kGeometry;
  map.memoryBytes = 10 * kGeometry.blockBytes();
  for (const auto kind :
       {SegmentKind::hot, SegmentKind::cold, SegmentKind::hot, SegmentKind::cold}) {
    map.segments.emplace_back();
    map.segments.back().kind = kind;
  }
  for (const uint32_t segment : {0, 0, 1, 2, 3}) {
    map.ioBlocks.emplace_back();
    map.ioBlocks.back().segment = segment;
  }
  for (const uint32_t ioBlock : {4, 3, 3, 2, 2, 99, 0, 1, 0, 1}) {
    map.blocks.emplace_back();
    map.blocks.back().ioBlock = ioBlock == 99 ? format::kNoIoBlock : ioBlock;
    map.blocks.back().codec = ioBlock == 99 ? Codec::zero : Codec::raw;
  }
  map.blocks[6].flags = format::kAlias;
  return map;
}

/** IO blocks in the order of the steps, -1 for zero blocks. */
std::vector<int> stepsOf(RestorePlan& plan) {
  std::vector<int> steps;
  for (RestorePlan::Step step; plan.next(step);) {
    if (step.isZeros) {
      CHECK(step.range.first == 0);
      CHECK(step.range.count == 10);
    }
    steps.push_back(step.isZeros ? -1 : static_cast<int>(step.ioBlock));
  }
  return steps;
}

using Blocks = std::vector<uint32_t>;
Blocks blocksOf(const RestorePlan& plan, uint32_t ioBlock) {
  const auto blocks = plan.blocksOf(ioBlock);
  return {blocks.begin(), blocks.end()};
}

}  // namespace

TEST_CASE("restore plan: hot segments newest first, zero blocks, cold segments") {
  RestorePlan plan(sampleMap(), {});
  CHECK(stepsOf(plan) == std::vector{0, 1, 3, -1, 2, 4});
  CHECK(stepsOf(plan).empty());
  plan.rewind();
  CHECK(stepsOf(plan).size() == 6);
}

TEST_CASE("restore plan: what was learnt comes first, each IO block once") {
  // Block 4 is in IO block 2, 5 is zero, 0 in 4, 3 in 2 again, 9 in 1.
  RestorePlan plan(sampleMap(), {4, 5, 0, 3, 9});
  CHECK(stepsOf(plan) == std::vector{2, 4, 1, 0, 3, -1});
}

TEST_CASE("restore plan: the blocks of each IO block, aliases among them") {
  const RestorePlan plan(sampleMap(), {});
  CHECK(blocksOf(plan, 0) == Blocks{6, 8});
  CHECK(blocksOf(plan, 1) == Blocks{7, 9});
  CHECK(blocksOf(plan, 2) == Blocks{3, 4});
  CHECK(blocksOf(plan, 4) == Blocks{0});
}

TEST_CASE("restore plan: a map of zero blocks alone") {
  MemoryMap map = sampleMap();
  map.ioBlocks.clear();
  for (format::MapBlock& row : map.blocks) {
    row.ioBlock = format::kNoIoBlock;
    row.codec = Codec::zero;
  }
  RestorePlan plan(map, {1, 2});
  CHECK(stepsOf(plan) == std::vector{-1});
}

TEST_CASE(
    "need recorder: waited for first, then used in the order of the plan, then earlier ones") {
  const MemoryMap map = sampleMap();
  const RestorePlan plan(map, {});
  NeedRecorder needs(map);
  std::vector<uint8_t> accessed(10, 0);
  CHECK(needs.order(accessed, plan, {3, 4}).empty());  // nothing to learn: keep what there is
  needs.note(3);
  needs.note(9);
  needs.note(4);  // of the same IO block as 3
  CHECK(needs.order(accessed, plan, {}) == NeedOrder{3, 9});
  accessed[7] = 1;  // the IO block of 9
  accessed[5] = 1;  // zero
  accessed[2] = accessed[6] = accessed[8] = 1;
  CHECK(needs.order(accessed, plan, {}) == NeedOrder{3, 9, 6, 2});
  CHECK(needs.order(accessed, plan, {1, 0, 8}) == NeedOrder{3, 9, 6, 2, 0});
}
