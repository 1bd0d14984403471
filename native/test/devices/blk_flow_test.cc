// Requests in flight: concurrency, checkpoints, resets and memory that cannot be loaded.
#include <doctest/doctest.h>

#include <algorithm>
#include <map>
#include <random>
#include <thread>

#include "test/devices/blk_rig.h"

using namespace ckptfs;
using D = TestDriver;

TEST_CASE("blk flow: several requests are in flight at once") {
  BlkRig rig;
  rig.driver.start();
  rig.disk.close();
  for (unsigned slot = 0; slot < 5; ++slot) rig.offer(slot, BlkType::out, slot, 512);
  rig.driver.kick();
  rig.disk.awaitHeldBack(3);  // one in each worker
  CHECK_FALSE(rig.blk.drained());
  CHECK_THROWS_AS(rig.blk.freeze(), Error);
  CHECK_FALSE(rig.blk.waitDrained(std::chrono::milliseconds(1)));
  CHECK_FALSE(rig.driver.poll());
  rig.disk.open();
  std::vector<uint32_t> heads;
  for (int i = 0; i < 5; ++i) heads.push_back(rig.driver.await(rig.line).id);
  std::sort(heads.begin(), heads.end());
  CHECK(heads == std::vector<uint32_t>{0, 3, 6, 9, 12});
  CHECK(rig.blk.drained());
}

TEST_CASE("blk flow: hold takes nothing new, drain waits, release continues") {
  BlkRig rig;
  rig.driver.start();
  rig.disk.close();
  rig.offer(0, BlkType::out, 0, 512);
  rig.driver.kick();
  rig.disk.awaitHeldBack(1);
  rig.blk.hold();
  rig.offer(1, BlkType::out, 1, 512);
  rig.driver.kick();
  CHECK_FALSE(rig.blk.drained());
  rig.disk.open();
  CHECK(rig.blk.waitDrained(kPatience));
  CHECK(rig.disk.writes == 1);
  CHECK(rig.driver.poll()->id == 0);
  CHECK_FALSE(rig.driver.poll());
  const auto frozen = rig.blk.freeze();
  rig.blk.release();
  CHECK(rig.driver.await(rig.line).id == 3);
  CHECK(rig.disk.writes == 2);
}

TEST_CASE("blk flow: a restored device serves what was queued, exactly once") {
  BlkRig rig;
  rig.driver.start();
  rig.offer(0, BlkType::out, 0, 512);
  rig.driver.kick();
  rig.driver.await(rig.line);
  rig.blk.hold();
  for (unsigned slot = 1; slot < 4; ++slot) {
    std::memset(rig.driver.at(rig.data(slot)), int(slot), 512);
    rig.offer(slot, BlkType::out, slot, 512);
  }
  rig.driver.kick();
  REQUIRE(rig.blk.waitDrained(kPatience));
  const std::string text = rig.blk.freeze()->toJson().dump();

  TestLine line;
  MemoryDisk disk(BlkRig::kDiskBytes);
  VirtioBlk restored(disk, "vda", rig.ram, line.input(), rig.pool);
  restored.thaw(Json::parse(text));
  CHECK(restored.freeze()->toJson().dump() == text);
  rig.driver.moveTo(restored);
  rig.driver.kick();
  CHECK(restored.drained());
  CHECK_FALSE(rig.driver.poll());
  restored.release();
  std::vector<uint32_t> heads;
  for (int i = 0; i < 3; ++i) heads.push_back(rig.driver.await(line).id);
  std::sort(heads.begin(), heads.end());
  CHECK(heads == std::vector<uint32_t>{3, 6, 9});
  CHECK(disk.writes == 3);
  for (unsigned slot = 1; slot < 4; ++slot) CHECK(disk.contents()[slot * 512] == std::byte(slot));
  CHECK_FALSE(rig.driver.poll());
}

TEST_CASE("blk flow: checkpoints under load lose and duplicate nothing") {
  BlkRig rig;
  rig.driver.start();
  constexpr unsigned kRequests = 3000;
  constexpr unsigned kRegionSectors = 8;
  std::atomic<bool> done{false};
  std::atomic<int> checkpoints{0}, undrained{0}, moved{0};

  std::thread checkpointer([&] {
    while (!done) {
      rig.blk.hold();
      if (!rig.blk.waitDrained(kPatience)) ++undrained;
      const Json state = rig.blk.freeze()->toJson();
      const uint16_t usedBefore = rig.driver.usedIndex();
      const int writesBefore = rig.disk.writes;
      std::this_thread::yield();  // the driver goes on queueing
      if (rig.blk.freeze()->toJson()["virtio"]["queues"] != state["virtio"]["queues"] ||
          rig.driver.usedIndex() != usedBefore || rig.disk.writes != writesBefore)
        ++moved;
      rig.blk.release();
      ++checkpoints;
      std::this_thread::yield();
    }
  });

  // Each slot owns a region of the disk, so that the oracle needs no order between requests.
  std::mt19937 random(5);
  std::vector<uint8_t> oracle(BlkRig::kSlots, 0), writing(BlkRig::kSlots, 0);
  std::vector<char> busy(BlkRig::kSlots, 0), reads(BlkRig::kSlots, 0);
  unsigned issued = 0, completed = 0, wrong = 0;
  while (completed < kRequests || checkpoints == 0) {
    unsigned added = 0;
    for (unsigned slot = 0; slot < BlkRig::kSlots && issued < kRequests; ++slot) {
      if (busy[slot] || random() % 2) continue;
      busy[slot] = 1;
      reads[slot] = random() % 2;
      writing[slot] = uint8_t(random());
      std::memset(rig.driver.at(rig.data(slot)), writing[slot], kRegionSectors * 512);
      rig.offer(slot, reads[slot] ? BlkType::in : BlkType::out, slot * kRegionSectors,
                kRegionSectors * 512);
      ++issued;
      ++added;
    }
    if (added) rig.driver.kick();
    if (issued == completed) {
      std::this_thread::yield();
      continue;
    }
    for (std::optional<D::Used> used = rig.driver.await(rig.line); used; used = rig.driver.poll()) {
      const unsigned slot = used->id / 3;
      if (used->id % 3 || slot >= BlkRig::kSlots || !busy[slot] || rig.result(slot) != 0) {
        ++wrong;
        continue;
      }
      busy[slot] = 0;
      ++completed;
      if (!reads[slot]) {
        oracle[slot] = writing[slot];
        continue;
      }
      const std::byte* bytes = rig.driver.at(rig.data(slot));
      if (std::count(bytes, bytes + kRegionSectors * 512, std::byte(oracle[slot])) !=
          kRegionSectors * 512)
        ++wrong;
    }
  }
  done = true;
  checkpointer.join();
  CHECK(issued == kRequests);
  CHECK(completed == kRequests);
  CHECK(wrong == 0);
  CHECK(undrained == 0);
  CHECK(moved == 0);
  CHECK_FALSE(rig.driver.poll());
  const auto contents = rig.disk.contents();
  for (unsigned slot = 0; slot < BlkRig::kSlots; ++slot)
    CHECK(contents[slot * kRegionSectors * 512] == std::byte(oracle[slot]));
}

TEST_CASE("blk flow: reset waits for what is in flight, and then nothing is completed") {
  BlkRig rig;
  rig.driver.start();
  rig.disk.close();
  rig.disk.fill(0, 512, 0x44);
  rig.offer(0, BlkType::in, 0, 512);
  rig.driver.kick();
  rig.disk.awaitHeldBack(1);
  std::atomic<bool> reset{false};
  std::thread vcpu([&] {
    rig.driver.set(reg::status, 0);
    reset = true;
  });
  std::this_thread::yield();
  CHECK_FALSE(reset);
  rig.disk.open();
  vcpu.join();
  CHECK(rig.blk.drained());
  CHECK_FALSE(rig.line.level());
  CHECK(rig.driver.get(reg::status) == 0);
  rig.driver.start();
  CHECK_FALSE(rig.driver.poll());
  CHECK(rig.request(BlkType::in, 0, 512) == 0);
}

TEST_CASE("blk flow: a driver that queues one chain many times is bounded") {
  BlkRig rig(false, 1);  // one worker: the requests share their memory, which is the driver's race
  rig.driver.start();
  rig.disk.close();
  rig.offer(0, BlkType::in, 0, 512);
  for (int i = 1; i < 128; ++i) rig.driver.offer(0);
  rig.driver.kick();
  for (int i = 0; i < 128; ++i) rig.driver.offer(0);  // reuse before anything was returned
  rig.driver.kick();
  rig.disk.open();
  for (int i = 0; i < 256; ++i) CHECK(rig.driver.await(rig.line).id == 0);
  CHECK_FALSE(rig.driver.needsReset());
  CHECK_FALSE(rig.driver.poll());
}

TEST_CASE("blk flow: memory that cannot be loaded stops a request until retry") {
  BlkRig before;
  before.driver.start();
  std::memset(before.driver.at(before.data(1)), 0x66, 512);
  before.blk.hold();
  before.offer(1, BlkType::out, 0, 512);
  before.driver.kick();
  const Json state = before.blk.freeze()->toJson();
  const std::byte* ram = before.memory.hostView();

  BlockId failing = 0;
  SUBCASE("rings and headers") {
    failing = 0;
  }
  SUBCASE("data") {
    failing = D::blockOf(before.data(1));
  }
  GuestMemory memory(BlkRig::kRamBytes, Geometry{});
  FailingClient loader(memory, failing, {ram, ram + BlkRig::kRamBytes});
  memory.armAccess(&loader);
  MemoryDisk disk(BlkRig::kDiskBytes);
  TestLine line;
  VirtioBlk blk(disk, "vda", GuestRam(memory, D::kRamBase), line.input(), before.pool);
  blk.thaw(state);
  for (int attempt = 0; attempt < 2; ++attempt) {
    blk.release();
    blk.retry();
    blk.hold();
    // Nothing but the memory is in the way, so this returns early; with the ring itself unreadable
    // the request was never taken.
    CHECK(blk.waitDrained(kPatience) == (failing == 0));
    CHECK(disk.writes == 0);
    CHECK_FALSE(line.level());
  }
  loader.allowed = true;
  blk.release();
  blk.retry();
  before.driver.moveTo(blk, memory);
  line.awaitHigh();
  CHECK(blk.waitDrained(kPatience));
  CHECK(before.driver.poll()->id == 3);
  CHECK_FALSE(before.driver.poll());
  CHECK(before.result(1) == 0);
  CHECK(disk.writes == 1);
  CHECK(disk.contents()[511] == std::byte{0x66});
}

TEST_CASE("blk flow: memory that cannot be saved parks a request until retry") {
  BlkRig rig;
  rig.driver.start();
  rig.disk.fill(0, 512, 0x66);
  rig.offer(1, BlkType::in, 0, 512);
  BlockId failing = 0;
  SUBCASE("used ring and status") {
    failing = 0;
  }
  SUBCASE("data") {
    failing = D::blockOf(rig.data(1));
  }
  FailingClient saver(rig.memory, failing);
  std::vector<uint8_t> traced(rig.memory.blockCount());
  rig.memory.armWrite(&saver, false, traced);
  rig.driver.kick();
  rig.blk.hold();
  CHECK_FALSE(rig.blk.waitDrained(kPatience));
  CHECK_THROWS_AS(rig.blk.freeze(), Error);
  CHECK(rig.result(1) == BlkRig::kNoStatus);
  CHECK(rig.driver.usedIndex() == 0);
  saver.allowed = true;
  rig.blk.retry();  // also while held: it is in flight already
  CHECK(rig.blk.waitDrained(kPatience));
  CHECK(rig.driver.poll()->id == 3);
  CHECK_FALSE(rig.driver.poll());
  CHECK(rig.result(1) == 0);
  CHECK(rig.driver.fetch<uint8_t>(rig.data(1) + 511) == 0x66);
  rig.memory.endSave(false);
}

TEST_CASE("blk flow: reset and destruction drop parked requests") {
  BlkRig rig;
  FailingClient saver(rig.memory, D::blockOf(rig.data(2)));
  rig.driver.start();
  rig.offer(2, BlkType::in, 0, 512);
  std::vector<uint8_t> traced(rig.memory.blockCount());
  rig.memory.armWrite(&saver, false, traced);
  rig.driver.kick();
  rig.blk.hold();
  CHECK_FALSE(rig.blk.waitDrained(kPatience));
  SUBCASE("reset") {
    rig.driver.set(reg::status, 0);
    CHECK(rig.blk.drained());
    rig.blk.release();
    rig.driver.start();
    CHECK(rig.request(BlkType::in, 0, 512) == 0);
  }
  SUBCASE("stopping the queue") {
    rig.driver.set(reg::queueReady, 0);
    CHECK(rig.blk.drained());
  }
  SUBCASE("destruction") {}
  rig.memory.endSave(false);
}

TEST_CASE("blk flow: a request is saved before a traced block is overwritten") {
  // The client keeps the contents that a block had when it was first written.
  class Saver final : public TraceClient {
   public:
    explicit Saver(GuestMemory& memory) : memory_(memory) {}
    bool handle(BlockId block, Cause) noexcept override {
      const auto& geometry = memory_.geometry();
      if (block == wanted) saved = memory_.hostView()[geometry.offsetOf(block)];
      return true;
    }
    BlockId wanted = 0;
    std::atomic<std::byte> saved{std::byte{0}};

   private:
    GuestMemory& memory_;
  };
  BlkRig rig;
  rig.driver.start();
  rig.disk.fill(0, 512, 0x02);
  std::memset(rig.driver.at(rig.data(0)), 0x01, 512);
  Saver saver(rig.memory);
  saver.wanted = Geometry{}.blockOf(rig.data(0) - D::kRamBase);
  std::vector<uint8_t> traced(rig.memory.blockCount());
  rig.memory.armWrite(&saver, false, traced);
  CHECK(rig.request(BlkType::in, 0, 512) == 0);
  CHECK(saver.saved.load() == std::byte{0x01});
  CHECK(rig.driver.fetch<uint8_t>(rig.data(0)) == 0x02);
  rig.memory.endSave(false);
}

TEST_CASE("blk flow: thaw refuses what does not fit the disk") {
  BlkRig rig;
  rig.driver.start();
  const Json good = rig.blk.freeze()->toJson();
  const auto refuse = [&](auto change) {
    Json bad = good;
    change(bad);
    CHECK_THROWS_AS(rig.blk.thaw(bad), Error);
  };
  refuse([](Json& j) { j["diskBytes"] = "0x200"; });
  refuse([](Json& j) { j["diskBytes"] = 1 << 20; });
  refuse([](Json& j) { j["readOnly"] = true; });
  refuse([](Json& j) { j.erase("readOnly"); });
  refuse([](Json& j) { j.erase("virtio"); });
  refuse([](Json& j) { j["virtio"]["deviceId"] = 4; });
  refuse([](Json& j) { j["virtio"]["queues"][0]["nextAvailable"] = 1; });
  CHECK(rig.blk.freeze()->toJson() == good);
  CHECK(rig.request(BlkType::in, 0, 512) == 0);
}
