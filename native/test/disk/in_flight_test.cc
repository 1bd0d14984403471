// Requests that are in flight while a disk switches to a new redo log (requirements A8 and A13).
#include <algorithm>
#include <atomic>
#include <future>
#include <thread>

#include "disk/chain.h"
#include "disk/fault_disk.h"
#include "disk/pending_writes.h"
#include "test/disk/scratch.h"

namespace ckptfs {
namespace {

using Access = Chain::Access;
constexpr std::chrono::seconds kPatience{60};  // only ever reached by a failing test
constexpr std::chrono::milliseconds kMoment{20};
constexpr uint64_t kBlock = 4096;
constexpr uint64_t kDiskBytes = 64 * kBlock;

Bytes all(Disk& disk) {
  Bytes bytes(disk.bytes());
  disk.read(0, bytes);
  return bytes;
}

std::byte at(Disk& disk, uint64_t offset) {
  std::byte byte{};
  disk.read(offset, {&byte, 1});
  return byte;
}

Bytes filled(uint64_t length, int value) {
  return Bytes(length, std::byte(value));
}

/** A disk of zeros under a chain, under faults. */
struct Rig {
  explicit Rig(Access access = Access::redo) {
    chain = Chain::open(scratch.file("parent", Bytes(kDiskBytes)), std::nullopt, {}, access);
    if (access == Access::redo) push();
    disk = std::make_shared<FaultDisk>(chain, faults);
  }
  void push() { chain->push(chain->prepare(scratch.path("redo" + std::to_string(logs++)))); }

  Scratch scratch;
  std::shared_ptr<Chain> chain;
  std::shared_ptr<Faults> faults = std::make_shared<Faults>();
  std::shared_ptr<FaultDisk> disk;
  int logs = 0;
};

}  // namespace

TEST_CASE("in flight: a pending write reaches both disks, a new one only the ongoing one") {
  for (const Access access : {Access::redo, Access::direct}) {
    CAPTURE(int(access));
    Rig rig(access);
    const Extent change{0, 2 * kBlock};
    auto pin = rig.disk->pin({&change, 1});
    pin->write(0, filled(kBlock, 1));  // one part before the push, one after it
    rig.push();
    rig.disk->write(4 * kBlock, filled(kBlock, 2));
    pin->write(kBlock, filled(kBlock, 3));
    pin.reset();
    auto frozen = rig.chain->frozenView();
    rig.chain->sealFrozen();
    Bytes expected = filled(kDiskBytes, 0);
    std::fill_n(expected.begin(), kBlock, std::byte{1});
    std::fill_n(expected.begin() + kBlock, kBlock, std::byte{3});
    CHECK(all(*frozen) == expected);
    std::fill_n(expected.begin() + 4 * kBlock, kBlock, std::byte{2});
    CHECK(all(*rig.disk) == expected);
  }
}

TEST_CASE("in flight: a pending read sees nothing that was written after the push") {
  Rig rig;
  rig.disk->write(0, filled(kBlock, 1));
  const auto pin = rig.disk->pin({});
  rig.push();
  rig.disk->write(0, filled(kBlock, 2));
  CHECK(at(*pin, 0) == std::byte{1});
  CHECK(at(*rig.disk, 0) == std::byte{2});
}

TEST_CASE("in flight: zeroes and discards of before the push reach both disks") {
  Rig rig;
  rig.disk->write(0, filled(8 * kBlock, 7));
  const Extent changes[] = {{512, kBlock}, {3 * kBlock, 2 * kBlock}};
  auto pin = rig.disk->pin(changes);
  rig.push();
  pin->writeZeroes(512, kBlock, false);
  pin->discard(3 * kBlock, 2 * kBlock);
  CHECK_THROWS_AS(pin->write(6 * kBlock, filled(512, 1)), Error);  // not announced
  pin.reset();
  rig.chain->sealFrozen();
  Bytes expected = filled(kDiskBytes, 0);
  std::fill_n(expected.begin(), 8 * kBlock, std::byte{7});
  std::fill_n(expected.begin() + 512, kBlock, std::byte{0});
  std::fill_n(expected.begin() + 3 * kBlock, 2 * kBlock, std::byte{0});
  CHECK(all(*rig.chain->frozenView()) == expected);
  CHECK(all(*rig.disk) == expected);
}

TEST_CASE("in flight: sealing waits for the writes of before the push, and only for those") {
  Rig rig;
  const Extent change{0, 512};
  auto pending = rig.disk->pin({&change, 1});
  rig.push();
  const auto newer = rig.disk->pin({&change, 1});
  const auto reading = rig.disk->pin({});
  CHECK_FALSE(rig.chain->waitFrozen(std::chrono::milliseconds(1)));
  auto sealed = std::async(std::launch::async, [&] { rig.chain->sealFrozen(); });
  CHECK(sealed.wait_for(kMoment) == std::future_status::timeout);
  CHECK_FALSE(rig.chain->layers()[0].sealed);
  pending->write(0, filled(512, 1));
  pending.reset();
  REQUIRE(sealed.wait_for(kPatience) == std::future_status::ready);
  CHECK(rig.chain->waitFrozen(std::chrono::milliseconds(0)));
  CHECK(rig.chain->layers()[0].sealed);
  CHECK(at(*rig.chain->frozenView(), 0) == std::byte{1});
}

TEST_CASE("in flight: a copy-up waits for a pending write to the same block group (A13)") {
  Rig rig;
  rig.disk->write(0, filled(4 * kBlock, 1));
  const Extent change{kBlock + 1024, 512};
  auto pending = rig.disk->pin({&change, 1});
  rig.push();
  SUBCASE("a part of the group") {
    auto newer = std::async(std::launch::async, [&] { rig.disk->write(kBlock, filled(512, 3)); });
    CHECK(newer.wait_for(kMoment) == std::future_status::timeout);
    pending->write(kBlock + 1024, filled(512, 2));
    CHECK(newer.wait_for(kMoment) == std::future_status::timeout);  // it may have more to write
    pending.reset();
    REQUIRE(newer.wait_for(kPatience) == std::future_status::ready);
    CHECK(at(*rig.disk, kBlock) == std::byte{3});
  }
  SUBCASE("a part of it, by zeroes that end there") {
    auto newer =
        std::async(std::launch::async, [&] { rig.disk->writeZeroes(0, kBlock + 512, true); });
    CHECK(newer.wait_for(kMoment) == std::future_status::timeout);
    pending->write(kBlock + 1024, filled(512, 2));
    pending.reset();
    REQUIRE(newer.wait_for(kPatience) == std::future_status::ready);
    CHECK(at(*rig.disk, kBlock) == std::byte{0});
  }
  SUBCASE("the whole group, or another one, does not wait") {
    rig.disk->write(2 * kBlock, filled(512, 3));
    rig.disk->write(kBlock, filled(kBlock, 4));
    CHECK(at(*rig.disk, kBlock + 1024) == std::byte{4});
    pending->write(kBlock + 1024, filled(512, 2));
    pending.reset();
    // Two writes to one place at once: the newer layer wins in the ongoing disk.
    CHECK(at(*rig.disk, kBlock + 1024) == std::byte{4});
    CHECK(at(*rig.chain->frozenView(), kBlock + 1024) == std::byte{2});
    return;
  }
  CHECK(at(*rig.disk, kBlock + 1024) == std::byte{2});
  CHECK(at(*rig.disk, kBlock + 1536) == std::byte{1});
  CHECK(at(*rig.chain->frozenView(), kBlock) == std::byte{1});
  CHECK(at(*rig.chain->frozenView(), kBlock + 1024) == std::byte{2});
}

// Each thread owns every fourth sector, so that all share every block group, and pushes come at any
// moment. What a thread had completed before a push is in the frozen disk, what it began after the
// push is not, and the ongoing disk loses nothing.
TEST_CASE("in flight: pushes amid writers of parts of the same groups lose nothing") {
  constexpr uint64_t kThreads = 4, kSectors = 256, kEach = kSectors / kThreads;
  constexpr int kPushes = 12;
  Scratch scratch(Scratch::memory());
  const std::shared_ptr<Chain> chain =
      Chain::open(scratch.file("parent", Bytes(kSectors * 512)), std::nullopt, {}, Access::direct);
  // Per sector the number of the last write begun and completed; a sector holds its number.
  std::vector<std::atomic<uint64_t>> begun(kSectors), completed(kSectors);
  std::atomic<bool> stop{false};
  std::vector<std::thread> writers;
  for (uint64_t thread = 0; thread < kThreads; thread++)
    writers.emplace_back([&, thread] {
      Random random(40 + thread);
      while (!stop) {
        const uint64_t sector = random() % kEach * kThreads + thread;
        const uint64_t value = begun[sector] + 1;
        Bytes data(512);
        for (size_t i = 0; i < data.size(); i += 8) std::memcpy(&data[i], &value, 8);
        begun[sector] = value;
        const Extent change{sector * 512, 512};
        const auto pin = chain->pin({&change, 1});
        if (random() % 4 == 0) std::this_thread::yield();
        pin->write(sector * 512, data);
        completed[sector] = value;
      }
    });
  const auto valueIn = [](const Bytes& bytes, uint64_t sector) {
    uint64_t first, last;
    std::memcpy(&first, &bytes[sector * 512], 8);
    std::memcpy(&last, &bytes[sector * 512 + 504], 8);
    return first == last ? first : UINT64_MAX;
  };
  int wrong = 0;
  for (int push = 0; push < kPushes; push++) {
    auto fresh = chain->prepare(scratch.path("redo" + std::to_string(push)));
    std::this_thread::sleep_for(std::chrono::milliseconds(3));
    std::vector<uint64_t> least(kSectors), most(kSectors);
    for (uint64_t sector = 0; sector < kSectors; sector++) least[sector] = completed[sector];
    chain->push(std::move(fresh));
    for (uint64_t sector = 0; sector < kSectors; sector++) most[sector] = begun[sector];
    chain->sealFrozen();
    const auto view = chain->frozenView();
    const Bytes frozen = all(*view);
    for (uint64_t sector = 0; sector < kSectors; sector++) {
      const uint64_t value = valueIn(frozen, sector);
      wrong += value < least[sector] || value > most[sector];
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    CHECK(all(*view) == frozen);
  }
  stop = true;
  for (auto& writer : writers) writer.join();
  CHECK(wrong == 0);
  const Bytes ongoing = all(*chain);
  for (uint64_t sector = 0; sector < kSectors; sector++)
    wrong += valueIn(ongoing, sector) != completed[sector];
  CHECK(wrong == 0);
}

TEST_CASE("fault disk: gates hold back what they are for") {
  Rig rig;
  const unsigned writes = rig.faults->close(Faults::kWrite, {kBlock, kBlock});
  const unsigned flushes = rig.faults->close(Faults::kFlush);
  rig.disk->write(0, filled(kBlock, 1));
  CHECK(at(*rig.disk, kBlock) == std::byte{0});
  auto write = std::async(std::launch::async, [&] { rig.disk->write(0, filled(2 * kBlock, 2)); });
  auto flush = std::async(std::launch::async, [&] { rig.disk->flush(); });
  CHECK(rig.faults->awaitHeld(writes, 1, kPatience));
  CHECK(rig.faults->awaitHeld(flushes, 1, kPatience));
  CHECK_FALSE(rig.faults->awaitHeld(writes, 2, std::chrono::milliseconds(1)));
  CHECK(at(*rig.disk, kBlock) == std::byte{0});
  rig.faults->open(writes);
  CHECK(write.wait_for(kPatience) == std::future_status::ready);
  CHECK(flush.wait_for(kMoment) == std::future_status::timeout);
  rig.faults->openAll();
  CHECK(flush.wait_for(kPatience) == std::future_status::ready);
  CHECK(at(*rig.disk, kBlock) == std::byte{2});
}

TEST_CASE("fault disk: requests fail or are cut as told, and not otherwise") {
  Rig rig;
  rig.faults->fail(Faults::kWrite, 1, 1);
  rig.disk->write(0, filled(kBlock, 1));
  CHECK(at(*rig.disk, 0) == std::byte{1});
  CHECK(codeOf([&] { rig.disk->write(0, filled(kBlock, 2)); }) == Code::io);
  CHECK(at(*rig.disk, 0) == std::byte{1});
  rig.faults->fail(Faults::kWrite | Faults::kFlush, 0, 3, true);
  CHECK(codeOf([&] { rig.disk->write(0, filled(2 * kBlock, 3)); }) == Code::io);
  CHECK(at(*rig.disk, kBlock - 1) == std::byte{3});
  CHECK(at(*rig.disk, kBlock) == std::byte{0});
  CHECK(codeOf([&] { rig.disk->flush(); }) == Code::io);
  CHECK(codeOf([&] { rig.disk->discard(0, kBlock); }) == Code::io);
  CHECK(at(*rig.disk, 0) == std::byte{0});
  CHECK(at(*rig.disk, kBlock - 1) == std::byte{3});
  rig.disk->writeZeroes(0, kBlock, true);
  rig.disk->flush();
  rig.faults->fail(Faults::kRead, 0, 1, true);
  Bytes bytes(1024, std::byte{9});
  CHECK(codeOf([&] { rig.disk->read(0, bytes); }) == Code::io);
  CHECK(bytes[511] == std::byte{0});
  CHECK(bytes[512] == std::byte{9});
}

}  // namespace ckptfs
