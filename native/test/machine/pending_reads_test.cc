// What PendingReads promises a saver, with reads that end when the test says so.
#include "machine/pending_reads.h"

#include <doctest/doctest.h>

#include <cstring>
#include <future>
#include <map>

#include "test/devices/memory_disk.h"

namespace ckptfs {
namespace {

constexpr uint64_t kRam = 0x8000'0000;
constexpr Geometry kGeometry{};
constexpr std::chrono::milliseconds kMoment{20};
constexpr std::chrono::seconds kPatience{60};

struct Rig {
  Rig() { disk->fill(0, disk->bytes(), 0xdd); }
  std::shared_ptr<void> add(uint64_t diskOffset, std::vector<Segment> memory) {
    return reads->watcher()({disk, diskOffset, std::move(memory)});
  }
  bool prepare(uint64_t limitBytes = PendingReads::kCopiesLimitBytes) {
    return reads->prepare(
        [this](BlockId block, const std::byte* raw) {
          delivered[block].assign(raw, raw + kGeometry.blockBytes());
        },
        limitBytes);
  }
  bool keep(BlockId block, int value) {
    const std::vector<std::byte> raw(kGeometry.blockBytes(), std::byte(value));
    return reads->keep(block, raw.data());
  }
  std::shared_ptr<MemoryDisk> disk = std::make_shared<MemoryDisk>(1 << 20);
  std::shared_ptr<PendingReads> reads = std::make_shared<PendingReads>(kGeometry, kRam);
  std::map<BlockId, std::vector<std::byte>> delivered;
};

}  // namespace

TEST_CASE("pending reads: awaited from first to last, and not beyond") {
  Rig rig;
  const uint64_t block = kGeometry.blockBytes();
  auto first = rig.add(0, {{kRam + 2 * block - 512, 1024}});  // the end of block 1, the start of 2
  auto second = rig.add(4096, {{kRam + 5 * block, 512}, {kRam + block, 512}});
  auto early = rig.add(0, {{kRam + 7 * block, 512}});
  early.reset();  // before the table is made
  REQUIRE(rig.prepare());
  for (BlockId b = 0; b < 10; ++b) CHECK(rig.reads->awaits(b) == (b == 1 || b == 2 || b == 5));
  rig.reads->wait(0);
  auto waiter = std::async(std::launch::async, [&] { rig.reads->wait(1); });
  first.reset();
  CHECK_FALSE(rig.reads->awaits(2));
  CHECK(rig.reads->awaits(1));
  CHECK(waiter.wait_for(kMoment) == std::future_status::timeout);
  second.reset();
  CHECK(waiter.wait_for(kPatience) == std::future_status::ready);
  CHECK_FALSE(rig.reads->awaits(1));
  CHECK_FALSE(rig.keep(1, 0));
  CHECK_FALSE(rig.keep(0, 0));
  CHECK(rig.delivered.empty());
}

TEST_CASE("pending reads: a copy is completed by all reads of its block, and comes back once") {
  Rig rig;
  const uint64_t block = kGeometry.blockBytes();
  rig.disk->fill(4096, 512, 0xee);
  auto first = rig.add(0, {{kRam + block + 100, 300}, {kRam + 3 * block, 212}});
  auto second = rig.add(4096, {{kRam + block + 1000, 512}});
  REQUIRE(rig.prepare());
  REQUIRE(rig.keep(1, 0x01));
  first.reset();
  CHECK(rig.delivered.empty());
  second.reset();
  REQUIRE(rig.delivered.size() == 1);
  std::vector<std::byte> expected(block, std::byte{0x01});
  std::memset(&expected[100], 0xdd, 300);
  std::memset(&expected[1000], 0xee, 512);
  CHECK(rig.delivered[1] == expected);
  rig.delivered.clear();
  rig.reads->end();
  CHECK(rig.delivered.empty());
}

TEST_CASE("pending reads: a disk that cannot be read again leaves the copy to the restored VM") {
  Rig rig;
  auto read = rig.add(0, {{kRam, 512}});
  REQUIRE(rig.prepare());
  REQUIRE(rig.keep(0, 0x01));
  rig.disk->failing = true;
  read.reset();
  CHECK(rig.delivered[0] == std::vector<std::byte>(kGeometry.blockBytes(), std::byte{0x01}));
}

TEST_CASE("pending reads: once abandoned nothing is awaited, and copies go back") {
  Rig rig;
  auto kept = rig.add(0, {{kRam, 512}});
  auto other = rig.add(0, {{kRam + kGeometry.blockBytes(), 512}});
  REQUIRE(rig.prepare());
  REQUIRE(rig.keep(0, 0x01));
  auto waiter = std::async(std::launch::async, [&] { rig.reads->wait(1); });
  rig.reads->abandon();
  CHECK(waiter.wait_for(kPatience) == std::future_status::ready);
  CHECK(rig.delivered.size() == 1);
  CHECK_FALSE(rig.reads->awaits(0));
  CHECK_FALSE(rig.reads->awaits(1));
  CHECK_FALSE(rig.keep(1, 0x01));
  rig.reads->end();
  kept.reset();
  other.reset();
  CHECK(rig.delivered.size() == 1);
}

TEST_CASE("pending reads: too many blocks are refused until reads are over") {
  Rig rig;
  auto first = rig.add(0, {{kRam, uint32_t(3 * kGeometry.blockBytes())}});
  auto second = rig.add(0, {{kRam, 512}});
  CHECK_FALSE(rig.prepare(2 * kGeometry.blockBytes()));
  first.reset();
  CHECK(rig.prepare(2 * kGeometry.blockBytes()));
  CHECK(rig.reads->awaits(0));
  CHECK_FALSE(rig.reads->awaits(1));
}

TEST_CASE("pending reads: faults, waits and reads that end at once") {
  for (int round = 0; round < 50; ++round) {
    Rig rig;
    std::vector<std::shared_ptr<void>> tokens;
    constexpr unsigned kBlocks = 8;
    for (unsigned i = 0; i < kBlocks; ++i)
      tokens.push_back(rig.add(0, {{kRam + i * kGeometry.blockBytes() + 512, 512}}));
    std::atomic<unsigned> kept{0}, delivered{0};
    REQUIRE(rig.reads->prepare([&](BlockId, const std::byte* raw) {
      delivered += raw[512] == std::byte{0xdd} && raw[0] == std::byte{1};
    }));
    std::thread faults([&] {
      for (BlockId b = 0; b < kBlocks; ++b)
        if (rig.reads->awaits(b)) kept += rig.keep(b, 1);
    });
    std::thread saver([&] {
      for (BlockId b = 0; b < kBlocks; ++b) rig.reads->wait(b);
    });
    for (auto& token : tokens) token.reset();
    faults.join();
    saver.join();
    rig.reads->end();
    CHECK(kept == delivered);
  }
}

}  // namespace ckptfs
