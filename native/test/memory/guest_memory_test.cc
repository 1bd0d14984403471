// What GuestMemory promises, case by case, for every trace engine. Threads against an oracle are in
// conformance_test.cc.
#include "memory/guest_memory.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <random>
#include <thread>
#include <vector>

#include "base/error.h"
#include "guest_access.h"
#include "kernel_mappings.h"
#include "memory/fault_thread.h"

using namespace ckptfs;

namespace {

const Geometry kGeometry;

/** A client that counts calls per block and does what the test says. */
class Client final : public TraceClient {
 public:
  explicit Client(const GuestMemory& memory, std::function<bool(BlockId)> act = {})
      : calls(memory.blockCount()), act_(std::move(act)) {}
  bool handle(BlockId block, Cause cause) noexcept override {
    ++calls[block];
    lastCause = cause;
    return !act_ || act_(block);
  }
  std::vector<std::atomic<int>> calls;
  std::atomic<Cause> lastCause{Cause::demand};

 private:
  std::function<bool(BlockId)> act_;
};

/** Memory of `blocks` blocks under one engine, with the shorthands that the cases need. */
struct Rig {
  Rig(const std::string& engine, uint64_t blocks, uint64_t mappingLimit = 0)
      : memory(blocks * kGeometry.blockBytes(), kGeometry, engine, mappingLimit), traced(blocks) {
    GuestMemory::attachThread();
  }
  BlockRange all() const { return {0, memory.blockCount()}; }
  void write(BlockId block, uint64_t value = 1) {
    guestStore(memory, kGeometry.offsetOf(block), value);
  }
  uint64_t read(BlockId block) { return guestLoad(memory, kGeometry.offsetOf(block)); }
  BlockState state(BlockId block) const { return memory.state(block); }
  uint64_t faults() const { return memory.counters().faults; }
  /** A whole save without a guest: every block but holes ends clean when tracking. */
  void save(bool keepBase) {
    Client saver(memory);
    memory.armWrite(&saver, keepBase, traced);
    CHECK(memory.settleSave(all()));
    memory.endSave(true);
  }

  GuestMemory memory;
  std::vector<uint8_t> traced;
};

template <class Case>
void forEachEngine(Case run) {
  for (const std::string& engine : usableEngines()) {
    CAPTURE(engine);
    run(engine);
  }
}

}  // namespace

TEST_CASE("guest memory: sizes are checked") {
  CHECK_THROWS_AS(GuestMemory(0, kGeometry), Error);
  CHECK_THROWS_AS(GuestMemory(kGeometry.blockBytes() + 4096, kGeometry), Error);
  CHECK_THROWS_AS(GuestMemory(kGeometry.blockBytes(), kGeometry, "none such"), Error);
  GuestMemory memory(4 * kGeometry.blockBytes(), kGeometry);
  CHECK(memory.blockCount() == 4);
  CHECK(memory.dirtyBlocks() == 4);
  CHECK(memory.prepareRead(0, memory.bytes()));
  CHECK_FALSE(memory.prepareRead(1, memory.bytes()));
  CHECK_FALSE(memory.prepareWrite(memory.bytes(), 1));
  CHECK_FALSE(memory.prepareWrite(UINT64_MAX, 2));
}

TEST_CASE("guest memory: both views are the same bytes, holes are found") {
  forEachEngine([](const std::string& engine) {
    Rig rig(engine, 256);  // 8 MiB: four huge pages
    CHECK(rig.memory.isHole(255));
    rig.write(255, 5);
    CHECK(loadFrom(rig.memory.hostView(), kGeometry.offsetOf(255)) == 5);
    CHECK_FALSE(rig.memory.isHole(255));
    CHECK(rig.memory.isHole(0));
    CHECK(rig.memory.isHole(191));
    CHECK(rig.memory.softTraced() == (rig.memory.guestView() == rig.memory.hostView()));
    CHECK(rig.memory.softTraced() == (engine == kSoftEngine));
  });
}

TEST_CASE("guest memory: a save goes through its states, untracked and tracked") {
  for (const bool tracked : {false, true}) {
    CAPTURE(tracked);
    forEachEngine([&](const std::string& engine) {
      Rig rig(engine, 64);
      rig.memory.track(tracked);
      Client saver(rig.memory);
      rig.memory.armWrite(&saver, false, rig.traced);
      CHECK(rig.traced == std::vector<uint8_t>(64, 1));
      CHECK_THROWS_AS(rig.memory.armWrite(&saver, false, rig.traced), Error);
      CHECK_THROWS_AS(rig.memory.armAccess(&saver), Error);
      CHECK(rig.memory.prepareRead(0, rig.memory.bytes()));
      rig.read(5);
      CHECK(rig.state(5) == BlockState::traced);
      rig.write(5);
      CHECK(rig.state(5) == BlockState::open);
      CHECK(saver.lastCause == Cause::demand);
      CHECK(rig.memory.settleSave({0, 10}));
      CHECK(saver.lastCause == Cause::background);
      CHECK(rig.state(4) == BlockState::saved);
      CHECK(rig.state(5) == BlockState::open);
      rig.write(4);
      CHECK(rig.state(4) == BlockState::open);
      CHECK(rig.memory.prepareWrite(kGeometry.offsetOf(20) - 1, 2));
      CHECK(rig.state(19) == BlockState::open);
      CHECK(rig.state(20) == BlockState::open);
      CHECK(rig.state(21) == BlockState::traced);
      CHECK(rig.memory.settleSave(rig.all()));
      rig.memory.endSave(true);
      for (const auto& calls : saver.calls) REQUIRE(calls == 1);
      CHECK(rig.memory.dirtyBlocks() == (tracked ? 4 : 64));
      CHECK(rig.state(1) == (tracked ? BlockState::clean : BlockState::open));
      const uint64_t before = rig.faults();
      rig.write(6);
      rig.write(6);
      CHECK(rig.faults() == before + (tracked ? 1 : 0));
      CHECK(rig.state(6) == BlockState::open);
      if (!tracked) CHECK(rig.memory.counters().mappings == 1);
    });
  }
}

TEST_CASE("guest memory: a save that keeps the base saves what was written, a full one all") {
  forEachEngine([](const std::string& engine) {
    Rig rig(engine, 300);
    rig.memory.track(true);
    rig.save(false);
    CHECK(rig.memory.dirtyBlocks() == 0);
    std::vector<uint8_t> written(300);
    std::mt19937_64 random(3);
    for (int i = 0; i < 60; ++i) {
      const BlockId block = random() % 300;
      written[block] = 1;
      if (i % 2 == 0)
        rig.write(block);
      else
        CHECK(rig.memory.prepareWrite(kGeometry.offsetOf(block), 8));
    }
    CHECK(rig.memory.dirtyBlocks() ==
          uint64_t(std::count(written.begin(), written.end(), uint8_t{1})));
    rig.save(true);
    CHECK(rig.traced == written);
    rig.save(true);
    CHECK(rig.traced == std::vector<uint8_t>(300, 0));
    rig.write(7);
    rig.save(false);
    CHECK(rig.traced == std::vector<uint8_t>(300, 1));
    CHECK(rig.memory.dirtyBlocks() == 0);
  });
}

TEST_CASE("guest memory: a failed save leaves what it would have saved dirty") {
  forEachEngine([](const std::string& engine) {
    Rig rig(engine, 100);
    rig.memory.track(true);
    rig.save(false);
    for (BlockId block = 0; block < 10; ++block) rig.write(block);
    Client saver(rig.memory);
    rig.memory.armWrite(&saver, true, rig.traced);
    CHECK(rig.memory.settleSave({0, 5}));
    rig.memory.endSave(false);
    CHECK(rig.memory.dirtyBlocks() == 10);
    CHECK(rig.state(3) == BlockState::open);
    CHECK(rig.state(50) == BlockState::clean);
    rig.write(3, 9);
    CHECK(saver.calls[3] == 1);
    rig.save(true);
    CHECK(std::count(rig.traced.begin(), rig.traced.end(), uint8_t{1}) == 10);
  });
}

TEST_CASE("guest memory: what nobody saved stays dirty at the end of a good save") {
  forEachEngine([](const std::string& engine) {
    Rig rig(engine, 20);
    rig.memory.track(true);
    Client saver(rig.memory);
    rig.memory.armWrite(&saver, false, rig.traced);
    CHECK(rig.memory.settleSave({0, 15}));
    rig.memory.endSave(true);
    CHECK(rig.memory.dirtyBlocks() == 5);
    CHECK(rig.state(15) == BlockState::open);
  });
}

TEST_CASE("guest memory: arming ahead changes no result, and a write before the pause just lifts") {
  forEachEngine([](const std::string& engine) {
    Rig rig(engine, 1200);
    rig.memory.track(true);
    rig.save(false);
    for (BlockId block = 0; block < 1200; block += 3) rig.write(block, block + 1);
    rig.memory.armAhead({0, 600});
    rig.memory.armAhead({500, 700});
    CHECK(rig.memory.dirtyBlocks() == 400);
    Client saver(rig.memory);
    const uint64_t before = rig.faults();
    for (BlockId block = 0; block < 1200; block += 6) rig.write(block, block + 2);
    CHECK(rig.faults() - before == (engine == kSoftEngine ? 0 : 200));
    CHECK(rig.state(6) == BlockState::open);
    CHECK(rig.memory.prepareWrite(kGeometry.offsetOf(3), 8));
    CHECK(rig.state(3) == BlockState::open);
    rig.memory.armWrite(&saver, true, rig.traced);
    int odd = 0;
    for (BlockId block = 0; block < 1200; ++block) odd += rig.traced[block] != (block % 3 == 0);
    CHECK(odd == 0);
    for (BlockId block = 0; block < 1200; ++block) rig.write(block, 3);
    rig.memory.endSave(true);
    for (BlockId block = 0; block < 1200; ++block) odd += saver.calls[block] != (block % 3 == 0);
    CHECK(odd == 0);
  });
}

TEST_CASE("guest memory: a load goes through its states, untracked and tracked") {
  for (const bool tracked : {false, true}) {
    CAPTURE(tracked);
    forEachEngine([&](const std::string& engine) {
      Rig rig(engine, 64);
      rig.memory.track(tracked);
      Client loader(rig.memory, [&](BlockId b) {
        if (b < 32) storeTo(rig.memory.hostView(), kGeometry.offsetOf(b), b + 100);
        return true;  // the others stay holes
      });
      rig.memory.armAccess(&loader);
      CHECK_THROWS_AS(rig.memory.armAccess(&loader), Error);
      CHECK(rig.memory.dirtyBlocks() == 0);
      const BlockState settled = tracked ? BlockState::clean : BlockState::open;
      CHECK(rig.read(3) == 103);
      CHECK(rig.state(3) == settled);
      rig.write(4, 1);
      CHECK(rig.state(4) == BlockState::open);
      CHECK(rig.read(5) == 105);
      rig.write(5, 2);
      CHECK(rig.state(5) == BlockState::open);
      CHECK(rig.memory.prepareRead(kGeometry.offsetOf(6), 8));
      CHECK(rig.state(6) == settled);
      CHECK(rig.memory.prepareWrite(kGeometry.offsetOf(7), 8));
      CHECK(rig.state(7) == BlockState::open);
      CHECK(loader.lastCause == Cause::demand);
      CHECK(rig.read(40) == 0);
      rig.write(41, 1);
      CHECK(rig.memory.settleLoad({0, 20}));
      CHECK(loader.lastCause == Cause::background);
      CHECK(rig.state(10) == settled);
      CHECK(rig.state(20) == BlockState::absent);
      CHECK(rig.memory.settleLoad(rig.all()));
      rig.memory.endLoad();
      for (const auto& calls : loader.calls) REQUIRE(calls == 1);
      CHECK(rig.memory.dirtyBlocks() == (tracked ? 4 : 64));
      for (BlockId block = 0; block < 64; ++block) {
        const bool written = block == 4 || block == 5 || block == 41;
        if (!written) REQUIRE(rig.read(block) == (block < 32 ? block + 100 : 0));
        rig.write(block, 7);
        REQUIRE(rig.read(block) == 7);
      }
      CHECK(rig.memory.dirtyBlocks() == 64);
    });
  }
}

TEST_CASE("guest memory: a save may be armed while a load is under way, if it keeps the base") {
  forEachEngine([](const std::string& engine) {
    Rig rig(engine, 64);
    rig.memory.track(true);
    Client loader(rig.memory, [&](BlockId b) {
      storeTo(rig.memory.hostView(), kGeometry.offsetOf(b), b + 100);
      return true;
    });
    rig.memory.armAccess(&loader);
    CHECK(rig.read(1) == 101);
    rig.write(2, 5);
    Client saver(rig.memory);
    CHECK_THROWS_AS(rig.memory.armWrite(&saver, false, rig.traced), Error);
    rig.memory.armWrite(&saver, true, rig.traced);
    for (BlockId block = 0; block < 64; ++block) REQUIRE(rig.traced[block] == (block == 2));
    CHECK(rig.read(2) == 5);
    rig.write(2, 6);
    rig.write(3, 7);  // loads first; nothing to save
    CHECK(rig.read(4) == 104);
    CHECK(rig.memory.settleSave(rig.all()));
    CHECK(rig.memory.settleLoad({0, 32}));
    rig.memory.endSave(true);
    CHECK(rig.memory.settleLoad(rig.all()));
    rig.memory.endLoad();
    for (BlockId block = 0; block < 64; ++block) {
      REQUIRE(loader.calls[block] == 1);
      REQUIRE(saver.calls[block] == (block == 2));
      if (block > 3) REQUIRE(rig.read(block) == block + 100);
    }
    CHECK(rig.memory.dirtyBlocks() == 2);
  });
}

TEST_CASE(
    "guest memory: settling a load within a spent mapping budget, and all of RAM at the end") {
  Rig rig("mprotect", 100, 3);
  Client client(rig.memory);
  rig.memory.armAccess(&client);
  CHECK(rig.memory.settleLoad({10, 1}));
  CHECK(rig.memory.settleLoad({50, 1}));
  CHECK(rig.memory.counters().mappings == 3);
  CHECK(rig.memory.settleLoad({70, 2}));
  CHECK(rig.state(70) == BlockState::open);
  CHECK(rig.memory.counters().mappings == 3);
  CHECK(rig.read(50) == 0);
  CHECK(rig.memory.settleLoad(rig.all()));
  rig.memory.endLoad();
  CHECK(rig.memory.counters().mappings == 1);
  for (BlockId block = 0; block < 100; ++block) CHECK(client.calls[block] == 1);
}

TEST_CASE("guest memory: accesses are noted and harvested once") {
  Rig rig(kSoftEngine, 20);
  rig.memory.noteAccess(0);
  rig.memory.noteAccess(kGeometry.offsetOf(8) + 5);
  rig.memory.noteAccess(kGeometry.offsetOf(19) - 1);
  std::vector<uint8_t> used(20);
  used[3] = 1;
  rig.memory.harvestAccessed(used);
  for (BlockId block = 0; block < 20; ++block)
    CHECK(used[block] == (block == 0 || block == 3 || block == 8 || block == 18));
  std::vector<uint8_t> again(20);
  rig.memory.harvestAccessed(again);
  CHECK(again == std::vector<uint8_t>(20, 0));
}

TEST_CASE("guest memory: a failed block holds its vCPU until a retry succeeds") {
  forEachEngine([](const std::string& engine) {
    Rig rig(engine, 16);
    std::atomic<bool> broken{true};
    std::atomic<int> failures{0};
    Client client(rig.memory, [&](BlockId b) {
      if (b == 5 && broken) return false;
      storeTo(rig.memory.hostView(), kGeometry.offsetOf(b), 77);
      return true;
    });
    rig.memory.onFailure([&] {
      ++failures;
      failures.notify_all();
    });
    rig.memory.armAccess(&client);
    std::atomic<uint64_t> seen{0};
    std::jthread vcpu([&] {
      GuestMemory::attachThread();
      seen = rig.read(5);
    });
    failures.wait(0);
    CHECK(seen == 0);
    CHECK_FALSE(rig.memory.prepareRead(kGeometry.offsetOf(4), 2 * kGeometry.blockBytes()));
    CHECK_FALSE(rig.memory.settleLoad(rig.all()));
    CHECK(rig.state(4) == BlockState::open);
    CHECK(rig.state(5) == BlockState::absent);
    CHECK(rig.state(6) == BlockState::open);
    CHECK(failures >= 2);
    rig.memory.retryFailed();  // still broken: fails again
    broken = false;
    rig.memory.retryFailed();
    vcpu.join();
    CHECK(seen == 77);
    CHECK(rig.memory.settleLoad(rig.all()));
    rig.memory.endLoad();
  });
}

TEST_CASE("guest memory: the end of a failed save frees a vCPU whose block could not be saved") {
  forEachEngine([](const std::string& engine) {
    Rig rig(engine, 16);
    std::atomic<int> failures{0};
    rig.memory.onFailure([&] {
      ++failures;
      failures.notify_all();
    });
    Client saver(rig.memory, [](BlockId b) { return b != 5; });
    rig.memory.armWrite(&saver, false, rig.traced);
    std::jthread vcpu([&] {
      GuestMemory::attachThread();
      rig.write(5, 3);
    });
    failures.wait(0);
    CHECK_FALSE(rig.memory.settleSave(rig.all()));
    CHECK(loadFrom(rig.memory.hostView(), kGeometry.offsetOf(5)) == 0);
    rig.memory.endSave(false);
    vcpu.join();
    CHECK(rig.read(5) == 3);
  });
}

TEST_CASE("guest memory: abandon gets vCPUs out of their faults") {
  forEachEngine([](const std::string& engine) {
    Rig rig(engine, 16);
    Client client(rig.memory, [](BlockId) { return false; });
    std::atomic<int> failures{0};
    rig.memory.onFailure([&] {
      ++failures;
      failures.notify_all();
    });
    rig.memory.armAccess(&client);
    std::atomic<int> escaped{0};
    std::vector<std::jthread> vcpus;
    for (BlockId block = 0; block < 2; ++block)
      vcpus.emplace_back([&, block] {
        GuestMemory::attachThread();
        for (int again = 0; again < 2; ++again)  // after abandon() a later fault escapes at once
          escaped += !GuestMemory::runGuarded([&] { rig.read(block); });
      });
    for (int now = failures; now < 2; now = failures) failures.wait(now);
    CHECK(escaped == 0);
    rig.memory.abandon();
    for (auto& vcpu : vcpus) vcpu.join();
    CHECK(escaped == 4);
    CHECK(GuestMemory::runGuarded([] {}));
  });
}

TEST_CASE("guest memory: thread indexes are small and reused") {
  std::jthread([] {
    CHECK(GuestMemory::threadIndex() == kNoThreadIndex);
    GuestMemory::attachThread();
    const unsigned mine = GuestMemory::threadIndex();
    GuestMemory::attachThread();
    CHECK(GuestMemory::threadIndex() == mine);
    unsigned other = mine;
    for (int i = 0; i < 3; ++i) {
      std::jthread([&] {
        GuestMemory::attachThread();
        const unsigned before = other;
        other = GuestMemory::threadIndex();
        if (i > 0) CHECK(other == before);
      }).join();
      CHECK(other != mine);
    }
  }).join();
}
