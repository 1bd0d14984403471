// Checkpoints with disk requests in flight: what reaches which disk and which memory (requirements
// A8 to A13), step by step, with the requests held back across the pause.
#include <doctest/doctest.h>

#include <future>

#include "test/machine/in_flight_rig.h"
#include "test/memory/guest_access.h"

namespace ckptfs {
namespace {

using Rig = InFlightRig;
constexpr uint64_t kRam = memory_map::kRamBase;
const char* const kEngines[] = {"soft", "mprotect"};

/** What a vCPU would do; it must not have to wait for the disk. */
void vcpuStores(GuestMemory& memory, uint64_t address, uint64_t value) {
  onThreads(1, [&](unsigned) { guestStore(memory, address - kRam, value); });
}

}  // namespace

TEST_CASE("in flight (A8): pending requests reach both VMs, new ones only the ongoing one") {
  for (const char* engine : kEngines) {
    CAPTURE(engine);
    Rig rig(engine);
    rig.fillDisk(0, 8, 0x11);
    rig.fillDisk(24, 8, 0x33);
    rig.fillData(1, 0x22);
    rig.fillData(2, 0x44);
    const unsigned gate = rig.faults->close(Faults::kAll);
    rig.issue(0, BlkType::in, 0, 4096);
    rig.issue(1, BlkType::out, 8, 4096);
    REQUIRE(rig.faults->awaitHeld(gate, 2, kPatience));
    rig.begin();
    rig.issue(2, BlkType::out, 16, 4096);
    rig.issue(3, BlkType::in, 24, 4096);
    REQUIRE(rig.faults->awaitHeld(gate, 4, kPatience));
    rig.faults->openAll();
    REQUIRE(rig.complete(4));
    rig.finish();

    CHECK(rig.savedAsThenBut(0, 4096, 0x11));
    const std::byte* ram = rig.memory.hostView();
    CHECK(ram[rig.driver->data(0) - kRam] == std::byte{0x11});
    CHECK(ram[rig.driver->data(3) - kRam] == std::byte{0x33});
    CHECK(rig.frozen[8 * 512] == std::byte{0x22});
    CHECK(rig.frozen[16 * 512] == std::byte{0});
    CHECK(rig.diskByte(8) == std::byte{0x22});
    CHECK(rig.diskByte(16) == std::byte{0x44});

    // The restored driver still waits for the two, and gets each of them once.
    Rig restored(rig, rig.saved, rig.deviceState);
    restored.platform->release();
    REQUIRE(restored.complete(2));
    CHECK(restored.quietFor(Rig::kMoment));
    CHECK(restored.memory.hostView()[rig.driver->data(0) - kRam] == std::byte{0x11});
    CHECK(restored.diskByte(8) == std::byte{0x22});
    CHECK(restored.diskByte(16) == std::byte{0});
    restored.issue(4, BlkType::in, 8, 512);
    CHECK(restored.complete(1));
  }
}

TEST_CASE("in flight (A8): a request goes to one disk to its end, however long it is") {
  Rig rig("soft");
  constexpr uint32_t kBytes = 512 << 10;
  const unsigned slow = rig.faults->close(Faults::kWrite, {kBytes / 2, 512});
  std::memset(rig.driver->at(rig.driver->data(1)), 0x55, kBytes);
  rig.issue(1, BlkType::out, 0, kBytes);
  REQUIRE(rig.faults->awaitHeld(slow, 1, kPatience));
  rig.begin();
  rig.issue(39, BlkType::out, 1024, 512);
  REQUIRE(rig.complete(1));
  rig.faults->openAll();
  REQUIRE(rig.complete(1));
  rig.finish();
  CHECK(std::count(rig.frozen.begin(), rig.frozen.end(), std::byte{0x55}) == kBytes);
  CHECK(rig.saved == rig.oracle);
}

TEST_CASE("in flight (A8): a read that had not begun reaches an incremental checkpoint") {
  for (const char* engine : kEngines) {
    CAPTURE(engine);
    Rig rig(engine);
    rig.memory.track(true);
    rig.fillDisk(0, 8, 0x11);
    rig.begin();
    rig.finish();
    const std::string base = rig.checkpoint;
    const BlockId block = BlkDriver::blockOf(rig.driver->data(9));
    REQUIRE(rig.memory.state(block) == BlockState::clean);
    const unsigned gate = rig.faults->close(Faults::kAll);
    for (unsigned slot = 1; slot <= 4; ++slot) rig.issue(slot, BlkType::out, 64 + slot, 512);
    REQUIRE(rig.faults->awaitHeld(gate, 4, kPatience));  // all workers
    rig.issue(9, BlkType::in, 0, 4096);
    rig.begin(base);
    CHECK(rig.memory.state(block) == BlockState::traced);
    rig.faults->openAll();
    REQUIRE(rig.complete(5));
    rig.finish();
    CHECK(rig.savedAsThenBut(9, 4096, 0x11));
  }
}

TEST_CASE("in flight (A9): memory is saved before a new read into it is issued") {
  for (const char* engine : kEngines) {
    CAPTURE(engine);
    Rig rig(engine);
    rig.fillDisk(0, 8, 0x11);
    rig.fillData(0, 0x99);
    const unsigned pending = rig.faults->close(Faults::kRead);  // keeps the save from ending
    rig.issue(1, BlkType::in, 64, 512);
    REQUIRE(rig.faults->awaitHeld(pending, 1, kPatience));
    rig.begin();
    rig.issue(0, BlkType::in, 0, 4096);
    REQUIRE(rig.faults->awaitHeld(pending, 2, kPatience));
    CHECK(rig.memory.state(BlkDriver::blockOf(rig.driver->data(0))) == BlockState::open);
    rig.faults->openAll();
    REQUIRE(rig.complete(2));
    rig.finish();
    CHECK(Rig::byteAt(rig.saved, rig.driver->data(0)) == std::byte{0x99});
    CHECK(rig.savedAsThenBut(1, 512, 0));
    CHECK(rig.memory.hostView()[rig.driver->data(0) - kRam] == std::byte{0x11});
  }
}

TEST_CASE("in flight (A10): a read is done again for memory that was copied since") {
  for (const char* engine : kEngines) {
    CAPTURE(engine);
    Rig rig(engine);
    rig.fillDisk(0, 8, 0x11);
    rig.fillData(0, 0x99);
    const unsigned gate = rig.faults->close(Faults::kRead);
    rig.issue(0, BlkType::in, 0, 1024);
    REQUIRE(rig.faults->awaitHeld(gate, 1, kPatience));
    rig.begin();
    vcpuStores(rig.memory, rig.driver->data(0) + 2048, 0x7777);
    vcpuStores(rig.memory, rig.driver->data(0) + 512, 0x6666);  // its own race with the read
    rig.issue(1, BlkType::out, 0, 1024);                        // must not show in the checkpoint
    REQUIRE(rig.complete(1));
    rig.faults->openAll();
    REQUIRE(rig.complete(1));
    rig.finish();
    CHECK(rig.savedAsThenBut(0, 1024, 0x11));
    CHECK(rig.driver->fetch<uint64_t>(rig.driver->data(0) + 2048) == 0x7777);
    CHECK(rig.driver->fetch<uint8_t>(rig.driver->data(0) + 512) == 0x11);
    CHECK(rig.frozen[0] == std::byte{0x11});
    CHECK(rig.diskByte(0) == std::byte{0});
  }
}

TEST_CASE("in flight (A11): memory is not saved before the reads into it are over") {
  for (const char* engine : kEngines) {
    CAPTURE(engine);
    Rig rig(engine);
    rig.fillDisk(0, 8, 0x11);
    rig.fillDisk(64, 1, 0x22);
    const unsigned gate = rig.faults->close(Faults::kRead);
    rig.issue(0, BlkType::in, 0, 4096);
    REQUIRE(rig.faults->awaitHeld(gate, 1, kPatience));
    rig.begin();
    auto finished = std::async(std::launch::async, [&] { rig.finish(); });
    CHECK(finished.wait_for(Rig::kMoment) == std::future_status::timeout);
    CHECK(rig.memory.state(BlkDriver::blockOf(rig.driver->data(0))) == BlockState::traced);
    SUBCASE("reading it amid the save waits too") {
      std::byte byte{};
      auto reader = std::async(std::launch::async, [&] {
        rig.saver->read(rig.driver->data(0) - kRam, {&byte, 1});
      });
      CHECK(reader.wait_for(Rig::kMoment) == std::future_status::timeout);
      rig.faults->openAll();
      reader.get();
      CHECK(byte == std::byte{0x11});
    }
    SUBCASE("") {
      rig.faults->openAll();
    }
    finished.get();
    REQUIRE(rig.complete(1));
    CHECK(rig.savedAsThenBut(0, 4096, 0x11));
  }
}

TEST_CASE("in flight (A12): a read that a pending write overtakes delays the resume") {
  Rig rig("soft");
  rig.fillDisk(0, 8, 0x11);
  rig.fillData(1, 0x22);
  const unsigned reads = rig.faults->close(Faults::kRead);
  const unsigned writes = rig.faults->close(Faults::kWrite);
  rig.issue(0, BlkType::in, 0, 4096);
  rig.issue(1, BlkType::out, 7, 512);
  REQUIRE(rig.faults->awaitHeld(reads, 1, kPatience));
  REQUIRE(rig.faults->awaitHeld(writes, 1, kPatience));
  auto begun = std::async(std::launch::async, [&] { rig.begin(); });
  CHECK(begun.wait_for(Rig::kMoment) == std::future_status::timeout);
  rig.faults->open(reads);
  begun.get();
  CHECK(Json::parse(rig.deviceState)["virtio0"]["inFlight"] == Json(std::vector<unsigned>{3}));
  rig.faults->openAll();
  REQUIRE(rig.complete(2));
  rig.finish();
  CHECK(rig.saved == rig.oracle);
  CHECK(Rig::byteAt(rig.saved, rig.driver->data(0) + 4095) == std::byte{0x11});
  CHECK(rig.frozen[7 * 512] == std::byte{0x22});
}

TEST_CASE("in flight (A13): a disk COW fault waits for a pending write to the same block group") {
  Rig rig("soft");
  rig.fillDisk(8, 8, 0x11);
  rig.fillData(0, 0x22);
  rig.fillData(1, 0x33);
  const unsigned gate = rig.faults->close(Faults::kWrite, {9 * 512, 512});
  rig.issue(0, BlkType::out, 9, 512);
  REQUIRE(rig.faults->awaitHeld(gate, 1, kPatience));
  rig.begin();
  rig.issue(1, BlkType::out, 8, 512);
  CHECK(rig.quietFor(Rig::kMoment));
  rig.faults->openAll();
  REQUIRE(rig.complete(2));
  rig.finish();
  CHECK(rig.frozen[8 * 512] == std::byte{0x11});
  CHECK(rig.frozen[9 * 512] == std::byte{0x22});
  CHECK(rig.diskByte(8) == std::byte{0x33});
  CHECK(rig.diskByte(9) == std::byte{0x22});
  CHECK(rig.diskByte(10) == std::byte{0x11});
}

TEST_CASE("in flight: a cancelled save leaves requests alone, and nobody waits for them") {
  Rig rig("soft");
  rig.fillDisk(0, 8, 0x11);
  const unsigned gate = rig.faults->close(Faults::kRead);
  rig.issue(0, BlkType::in, 0, 4096);
  rig.issue(1, BlkType::in, 0, 4096);
  REQUIRE(rig.faults->awaitHeld(gate, 2, kPatience));
  rig.begin();
  vcpuStores(rig.memory, rig.driver->data(0), 0x7777);  // a copy is kept
  rig.saver->cancel();
  rig.reads->abandon();
  CHECK_THROWS_AS(rig.saver->wait(), Error);
  rig.reads->end();
  rig.saver.reset();
  rig.faults->openAll();
  REQUIRE(rig.complete(2));
  CHECK(rig.driver->fetch<uint8_t>(rig.driver->data(0)) == 0x11);
}

}  // namespace ckptfs
