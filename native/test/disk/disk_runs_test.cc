#include "disk/disk_runs.h"

#include "test/disk/scratch.h"

namespace ckptfs {

TEST_CASE("data and holes of a disk, from whatever layer") {
  constexpr uint64_t kBlock = 4096, kBlocks = 64;
  Scratch scratch;
  const std::string parent = scratch.path("parent"), log = scratch.path("log");
  {
    // A hole but for two blocks.
    std::ofstream out(parent, std::ios::binary);
    out.seekp(10 * kBlock);
    out.write(std::string(2 * kBlock, 'p').data(), 2 * kBlock);
  }
  std::filesystem::resize_file(parent, kBlocks * kBlock);
  uint64_t sealedBytes = 0;
  {
    const auto chain = Chain::open(parent, std::nullopt, {}, Chain::Access::redo);
    chain->push(chain->prepare(log));
    chain->write(12 * kBlock, Bytes(kBlock, std::byte{1}));
    chain->write(40 * kBlock, Bytes(kBlock, std::byte{2}));
    chain->writeZeroes(10 * kBlock, kBlock, true);
    chain->push(chain->prepare(scratch.path("next")));
    chain->sealFrozen();
    sealedBytes = chain->layers().front().bytes;
  }
  DiskRuns runs(Chain::open(parent, std::nullopt, {{log, sealedBytes}}, Chain::Access::readonly));
  std::vector<std::pair<uint64_t, bool>> found;  // blocks, hole
  for (uint64_t at = 0; at < kBlocks * kBlock;) {
    const ByteRun run = runs.at(at);
    REQUIRE(run.bytes % kBlock == 0);
    found.emplace_back(run.bytes / kBlock, run.hole);
    at += run.bytes;
  }
  using Found = std::vector<std::pair<uint64_t, bool>>;
  CHECK(found == Found{{11, true}, {2, false}, {27, true}, {1, false}, {23, true}});
  CHECK(runs.at(40 * kBlock + 5).bytes == kBlock - 5);
  CHECK(runs.at(kBlocks * kBlock - 1).bytes == 1);
}

}  // namespace ckptfs
