// Requests that are in flight when a checkpoint is taken (requirements A8, A12 and A14).
#include <doctest/doctest.h>

#include <algorithm>
#include <future>
#include <map>
#include <random>
#include <thread>

#include "test/devices/blk_rig.h"

using namespace ckptfs;
using D = TestDriver;

namespace {

constexpr std::chrono::milliseconds kMoment{20};

/** The VM that is restored from what a checkpoint of `rig` holds; its driver goes on there. */
struct Restored {
  Restored(BlkRig& rig, std::span<const std::byte> ram, const Json& state)
      : pool(3, "test-io"), driver(rig.driver) {
    std::copy(ram.begin(), ram.end(), memory.hostView());
    const auto bytes = rig.disk.contents();
    for (uint64_t at = 0; at < bytes.size(); at += 512)
      disk.write(at, std::span(bytes).subspan(at, 512));
    disk.writes = 0;
    blk.thaw(state);
    driver.moveTo(blk, memory);
  }
  GuestMemory memory{BlkRig::kRamBytes, Geometry{}};
  TestLine line;
  MemoryDisk disk{BlkRig::kDiskBytes};
  WorkerPool pool;
  VirtioBlk blk{disk, "vda", GuestRam(memory, D::kRamBase), line.input(), pool};
  BlkDriver driver;
};

/** What requests in flight are just writing may be of either time: nobody reads it before they are
 *  completed, so ThreadSanitizer need not look. */
__attribute__((no_sanitize("thread"))) std::vector<std::byte> copyOf(const GuestMemory& memory) {
  std::vector<std::byte> copy(memory.bytes());
  auto* to = reinterpret_cast<uint64_t*>(copy.data());
  const auto* from = reinterpret_cast<const volatile uint64_t*>(memory.hostView());
  for (uint64_t i = 0; i < memory.bytes() / sizeof *to; ++i) to[i] = from[i];
  return copy;
}

std::vector<uint32_t> heads(TestDriver& driver, TestLine& line, int count) {
  std::vector<uint32_t> found;
  for (int i = 0; i < count; ++i) found.push_back(driver.await(line).id);
  std::sort(found.begin(), found.end());
  return found;
}

}  // namespace

TEST_CASE("blk in flight: both VMs complete what was in flight, exactly once") {
  BlkRig rig;
  rig.driver.start();
  rig.disk.fill(0, 512, 0x11);
  std::memset(rig.driver.at(rig.data(1)), 0x22, 512);
  rig.disk.close();
  rig.offer(0, BlkType::in, 0, 512);
  rig.offer(1, BlkType::out, 1, 512);
  rig.offer(2, BlkType::flush, 0, 0);
  rig.offer(3, BlkType::in, 2, 512);  // more than there are workers
  rig.driver.kick();
  rig.disk.awaitHeldBack(3);
  rig.blk.hold();
  rig.offer(4, BlkType::in, 0, 512);  // waits in the queue
  rig.driver.kick();
  rig.blk.stop();
  const auto ram = copyOf(rig.memory);
  const Json state = rig.blk.freeze()->toJson();
  CHECK(state["inFlight"] == Json{0, 3, 6, 9});
  BlkDriver driver = rig.driver;
  rig.blk.release();
  rig.disk.open();
  CHECK(heads(rig.driver, rig.line, 5) == std::vector<uint32_t>{0, 3, 6, 9, 12});
  CHECK(rig.blk.drained());

  std::swap(driver, rig.driver);
  Restored restored(rig, ram, state);
  CHECK(restored.blk.freeze()->toJson() == state);  // also before it has begun
  restored.driver.kick();
  CHECK_FALSE(restored.blk.drained());
  CHECK_FALSE(restored.driver.poll());
  restored.blk.release();
  CHECK(heads(restored.driver, restored.line, 5) == std::vector<uint32_t>{0, 3, 6, 9, 12});
  CHECK_FALSE(restored.driver.poll());
  CHECK(restored.blk.drained());
  CHECK(restored.disk.writes == 1);
  CHECK(restored.disk.contents()[512] == std::byte{0x22});
  CHECK(restored.disk.flushes == 1);
  for (const unsigned slot : {0u, 1u, 2u, 3u, 4u})
    CHECK(restored.driver.fetch<uint8_t>(rig.status(slot)) == 0);
  CHECK(restored.driver.fetch<uint8_t>(rig.data(0)) == 0x11);
  CHECK(restored.driver.fetch<uint8_t>(rig.data(4) + 511) == 0x11);
}

TEST_CASE("blk in flight: a stopped device changes neither its state nor its rings") {
  BlkRig rig;
  rig.driver.start();
  rig.disk.close();
  for (unsigned slot = 0; slot < 3; ++slot) rig.offer(slot, BlkType::out, slot, 512);
  rig.driver.kick();
  rig.disk.awaitHeldBack(3);
  rig.blk.hold();
  CHECK_THROWS_AS(rig.blk.freeze(), Error);
  rig.blk.stop();
  const Json state = rig.blk.freeze()->toJson();
  rig.disk.open();
  while (rig.disk.writes < 3) std::this_thread::yield();
  std::this_thread::sleep_for(kMoment);
  CHECK(rig.blk.freeze()->toJson() == state);
  CHECK(rig.driver.usedIndex() == 0);
  CHECK_FALSE(rig.line.level());
  rig.blk.release();
  CHECK(heads(rig.driver, rig.line, 3) == std::vector<uint32_t>{0, 3, 6});
}

TEST_CASE("blk in flight: a stopped device can be destroyed") {
  BlkRig rig;
  rig.driver.start();
  rig.offer(0, BlkType::out, 0, 512);
  rig.blk.hold();
  SUBCASE("with a request in flight") {
    rig.disk.close();
    rig.blk.release();
    rig.disk.awaitHeldBack(1);
    rig.blk.stop();
    rig.disk.open();
  }
  SUBCASE("with none") {
    rig.blk.stop();
  }
}

TEST_CASE("blk in flight: a read before a write to the same sectors is a hazard (A12)") {
  BlkRig rig;
  rig.driver.start();
  rig.disk.close();
  bool hazard = false;
  SUBCASE("a read, then a write that overlaps it") {
    rig.offer(0, BlkType::in, 3, 1024);
    rig.offer(1, BlkType::out, 4, 1024);
    hazard = true;
  }
  SUBCASE("a read, then zeroes") {
    rig.offer(1, BlkType::in, 10, 512);
    rig.range(0, 8, 4, 0);
    rig.offer(0, BlkType::zeroes, 0, 16);
    hazard = true;
  }
  SUBCASE("a write, then a read") {
    rig.offer(0, BlkType::out, 3, 1024);
    rig.offer(1, BlkType::in, 4, 1024);
  }
  SUBCASE("a read, then a write beside it") {
    rig.offer(0, BlkType::in, 3, 1024);
    rig.offer(1, BlkType::out, 5, 1024);
  }
  SUBCASE("a read, then a write that fails") {
    rig.offer(0, BlkType::in, 3, 1024);
    rig.offer(1, BlkType::out, 3, 1000);
  }
  rig.driver.kick();
  rig.blk.hold();
  CHECK(rig.blk.waitHazards(std::chrono::milliseconds(1)) == !hazard);
  auto waited = std::async(std::launch::async, [&] { return rig.blk.waitHazards(kPatience); });
  if (hazard) CHECK(waited.wait_for(kMoment) == std::future_status::timeout);
  rig.disk.open();
  CHECK(waited.get());
}

TEST_CASE("blk in flight: reads are watched until their data is in memory") {
  BlkRig rig;
  rig.driver.start();
  rig.disk.fill(0, 4096, 0x77);
  rig.disk.close();
  rig.offer(0, BlkType::in, 0, 1024);
  rig.offer(1, BlkType::out, 8, 512);
  rig.offer(2, BlkType::in, 2, 512);
  rig.driver.kick();
  rig.disk.awaitHeldBack(3);
  rig.blk.hold();
  REQUIRE(rig.blk.prepareMemory());
  std::vector<VirtioBlk::PendingRead> reads;
  std::atomic<int> over{0};
  std::atomic<bool> stored{true};
  const auto watch = [&](VirtioBlk::PendingRead read) -> std::shared_ptr<void> {
    reads.push_back(read);
    const uint64_t last = read.memory.back().address + read.memory.back().length - 1;
    return {nullptr, [&, last](void*) {
              if (rig.driver.fetch<uint8_t>(last) != 0x77) stored = false;
              static_cast<void>(rig.blk.drained());  // takes the mutex of the device
              ++over;
            }};
  };
  rig.blk.watchReads(watch);
  REQUIRE(reads.size() == 2);
  CHECK(reads[0].offset == 0);
  CHECK(reads[0].memory == std::vector<Segment>{{rig.data(0), 1024}});
  CHECK(reads[1].offset == 1024);
  CHECK(reads[1].memory == std::vector<Segment>{{rig.data(2), 512}});
  std::this_thread::sleep_for(kMoment);
  CHECK(over == 0);
  rig.blk.stop();  // stops the completing, not the reading
  rig.disk.open();
  while (over < 2) std::this_thread::yield();
  CHECK(stored);
  rig.blk.watchReads([](VirtioBlk::PendingRead) -> std::shared_ptr<void> {
    FAIL_CHECK("a read that is done was shown");
    return {};
  });
  rig.blk.release();
  CHECK(heads(rig.driver, rig.line, 3) == std::vector<uint32_t>{0, 3, 6});
  std::vector<std::byte> again(1024);
  reads[0].disk->read(reads[0].offset, again);
  CHECK(again[1023] == std::byte{0x77});
}

TEST_CASE(
    "blk in flight: restored requests whose memory cannot be loaded come first all the same") {
  BlkRig rig;
  rig.driver.start();
  std::memset(rig.driver.at(rig.data(0)), 0x01, 512);
  std::memset(rig.driver.at(rig.data(1)), 0x02, 512);
  rig.disk.close();
  rig.offer(0, BlkType::out, 0, 512);
  rig.driver.kick();
  rig.disk.awaitHeldBack(1);
  rig.blk.hold();
  rig.offer(1, BlkType::out, 1, 512);
  rig.blk.stop();
  const auto ram = copyOf(rig.memory);
  const Json state = rig.blk.freeze()->toJson();
  rig.blk.release();
  rig.disk.open();

  GuestMemory memory(BlkRig::kRamBytes, Geometry{});
  FailingClient loader(memory, 0, ram);  // rings and headers
  memory.armAccess(&loader);
  MemoryDisk disk(BlkRig::kDiskBytes);
  TestLine line;
  WorkerPool pool(1, "test-io");
  VirtioBlk blk(disk, "vda", GuestRam(memory, D::kRamBase), line.input(), pool);
  blk.thaw(state);
  blk.release();
  blk.retry();
  CHECK(disk.writes == 0);
  blk.hold();
  CHECK_FALSE(blk.waitDrained(kPatience));
  CHECK_FALSE(blk.waitHazards(kPatience));
  blk.stop();
  CHECK(blk.freeze()->toJson() == state);
  SUBCASE("loaded later") {
    loader.allowed = true;
    blk.release();
    blk.retry();
    line.awaitHigh();
    CHECK(blk.waitDrained(kPatience));
    CHECK(disk.writes == 2);
    CHECK(disk.contents()[0] == std::byte{0x01});
    CHECK(disk.contents()[512] == std::byte{0x02});
  }
  SUBCASE("reset") {
    blk.release();
    blk.write(reg::status, 4, 0);
    CHECK(blk.drained());
  }
  SUBCASE("destroyed") {}
}

TEST_CASE("blk in flight: a damaged list of requests is refused, or needs a reset") {
  BlkRig rig;
  rig.driver.start();
  rig.disk.close();
  rig.offer(0, BlkType::in, 0, 512);
  rig.driver.kick();
  rig.disk.awaitHeldBack(1);
  rig.blk.hold();
  rig.blk.stop();
  const auto ram = copyOf(rig.memory);
  const Json good = rig.blk.freeze()->toJson();
  rig.disk.open();
  Restored restored(rig, ram, good);
  const auto refuse = [&](auto change) {
    Json bad = good;
    change(bad);
    TestLine line;
    VirtioBlk blk(restored.disk, "vda", GuestRam(restored.memory, D::kRamBase), line.input(),
                  restored.pool);
    CHECK_THROWS_AS(blk.thaw(bad), Error);
  };
  refuse([](Json& j) { j.erase("inFlight"); });
  refuse([](Json& j) { j["inFlight"] = 7; });
  refuse([](Json& j) { j["inFlight"] = Json::array(); });
  refuse([](Json& j) { j["inFlight"] = std::vector<unsigned>{0, 0}; });
  refuse([](Json& j) { j["inFlight"] = std::vector<unsigned>{65536}; });
  refuse([](Json& j) { j["inFlight"] = std::vector<int>{-1}; });
  refuse([](Json& j) { j["inFlight"] = std::vector<std::string>{"0"}; });
  refuse([](Json& j) { j["inFlight"] = std::vector<unsigned>(129, 0); });
  refuse([](Json& j) { j["virtio"]["queues"][0]["ready"] = false; });
  // Heads are looked up in guest memory, so what they lead to shows only then.
  for (const unsigned head : {128u, 65535u, 90u}) {
    CAPTURE(head);
    Json bad = good;
    bad["inFlight"] = std::vector<unsigned>{head};
    TestLine line;
    VirtioBlk blk(restored.disk, "vda", GuestRam(restored.memory, D::kRamBase), line.input(),
                  restored.pool);
    blk.thaw(bad);
    blk.release();
    CHECK((blk.read(reg::status, 4) & 64) != 0);
    CHECK(blk.drained());
  }
}

// The driver keeps the queue full while checkpoints are taken. Each is a moment at which rings and
// state agree, and a VM restored from it completes all that was issued, once.
TEST_CASE("blk in flight: checkpoints under load are consistent") {
  BlkRig rig;
  rig.driver.start();
  constexpr unsigned kSlots = 12, kSectors = 4, kRounds = 40;
  std::mt19937 random(7);
  std::vector<uint8_t> content(kSlots, 0);
  std::vector<char> busy(kSlots, 0), reads(kSlots, 0);
  int wrong = 0;
  const auto issue = [&](TestDriver& driver, unsigned slot) {
    reads[slot] = random() % 2;
    if (!reads[slot]) content[slot] = uint8_t(random());
    std::memset(driver.at(rig.data(slot)), reads[slot] ? 0xff : content[slot], kSectors * 512);
    rig.offer(slot, reads[slot] ? BlkType::in : BlkType::out, slot * kSectors, kSectors * 512);
    busy[slot] = 1;
  };
  const auto complete = [&](TestDriver& driver, uint32_t id) {
    const unsigned slot = id / 3;
    if (slot >= kSlots || !busy[slot]) return ++wrong, void();
    busy[slot] = 0;
    const std::byte* bytes = driver.at(rig.data(slot));
    wrong += driver.fetch<uint8_t>(rig.status(slot)) != 0;
    wrong += std::count(bytes, bytes + kSectors * 512, std::byte(content[slot])) != kSectors * 512;
  };
  size_t inFlight = 0;
  for (unsigned round = 0; round < kRounds; ++round) {
    for (unsigned slot = 0; slot < kSlots; ++slot)
      if (!busy[slot]) issue(rig.driver, slot);
    if (round % 4 == 0) rig.disk.close();
    rig.driver.kick();
    for (unsigned i = 0; i < random() % 3; ++i) std::this_thread::yield();
    rig.blk.hold();
    REQUIRE(rig.blk.waitHazards(kPatience));
    rig.blk.stop();
    const auto ram = copyOf(rig.memory);
    const Json state = rig.blk.freeze()->toJson();
    inFlight += state["inFlight"].size();
    BlkDriver driver = rig.driver;
    const auto busyThen = busy;
    rig.blk.release();
    rig.disk.open();
    unsigned left = unsigned(std::count(busy.begin(), busy.end(), 1));
    for (; left > 0; --left) complete(rig.driver, rig.driver.await(rig.line).id);
    CHECK_FALSE(rig.driver.poll());

    // The disk has all pending writes now, as the checkpoint's disk would.
    std::swap(driver, rig.driver);
    Restored restored(rig, ram, state);
    std::swap(driver, rig.driver);
    busy = busyThen;
    restored.blk.release();
    left = unsigned(std::count(busy.begin(), busy.end(), 1));
    for (; left > 0; --left) complete(restored.driver, restored.driver.await(restored.line).id);
    CHECK_FALSE(restored.driver.poll());
    CHECK(restored.blk.waitDrained(kPatience));
  }
  CHECK(wrong == 0);
  CHECK(inFlight > 0);
}
