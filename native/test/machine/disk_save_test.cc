// Live checkpoints of a guest that never stops using its disk, both ways of requirement A14.
#include <doctest/doctest.h>

#include <cstring>
#include <future>

#include "test/machine/rig.h"

namespace ckptfs {
namespace {

/** A raw disk of 1 MiB behind faults. */
DiskConfig makeFaultyDisk(const TempDirectory& directory) {
  DiskConfig disk = makeDisk(directory, 1 << 20);
  disk.faults = std::make_shared<Faults>();
  return disk;
}

/** The disk of a checkpoint, with a fresh log of its own to go on with. */
DiskConfig diskOf(const CheckpointResult& result, const std::string& freshLog) {
  DiskConfig disk = result.disks.at(0);
  openLayers(disk, Chain::Access::redo)->prepare(freshLog);
  disk.redo.push_back({freshLog, {}});
  return disk;
}

/** Requests that the guest has seen returned: see guests/disk.S. */
uint64_t returned(const Rig& rig) {
  uint64_t count;
  std::memcpy(&count, rig.ram().data() + 0x27008, sizeof count);
  return count;
}

/** Further requests are returned, and the guest finds nothing wrong with them. */
bool usesDisk(const Rig& rig) {
  const uint64_t since = returned(rig);
  return eventually([&] { return returned(rig) > since + 60 || !rig.exits().empty(); }) &&
         rig.exits().empty();
}

CheckpointRequest request(const TempDirectory& directory, const std::string& name, bool across) {
  CheckpointRequest request =
      Rig::request(directory.make(name), "none", {{"vda", directory.path() + "/redo" + name}});
  request.oracle = false;
  request.inFlight = across;
  return request;
}

/** A checkpoint while requests are held back, which go on only after the pause. */
CheckpointResult saveAcross(Rig& rig, Faults& faults, unsigned gate,
                            const CheckpointRequest& request) {
  REQUIRE(faults.awaitHeld(gate, 1, std::chrono::seconds(60)));
  return rig.machine->save(request, [&](uint64_t) { faults.openAll(); });
}

size_t inFlight(const CheckpointResult& result) {
  return Json::parse(result.deviceState)["devices"]["virtio0"]["inFlight"].size();
}

}  // namespace

TEST_CASE("a guest that uses its disk is saved and restored with requests in flight, or drained") {
  const TempDirectory directory;
  const DiskConfig disk = makeFaultyDisk(directory);
  Faults& faults = *disk.faults;
  Rig rig(1, {disk});
  rig.boot("disk");
  REQUIRE(usesDisk(rig));
  for (int round = 0; round < (kSanitized ? 4 : 12); ++round) {
    CAPTURE(round);
    const bool across = round % 4 != 3, held = round % 4 == 0;
    faults.delay(std::chrono::milliseconds(round % 2 == 0 ? 0 : 3));
    const auto save = request(directory, std::to_string(round), across);
    const auto result = held ? saveAcross(rig, faults, faults.close(Faults::kAll), save)
                             : rig.machine->save(save, [](uint64_t) {});
    if (held) CHECK(inFlight(result) > 0);
    if (!across) CHECK(inFlight(result) == 0);
    REQUIRE(usesDisk(rig));
    Rig restored(1, {diskOf(result, save.directory + "/fresh")});
    restored.restore(save.directory, result, round % 2 == 0);
    restored.machine->start();
    REQUIRE(usesDisk(restored));
  }
}

TEST_CASE("a restored guest is saved again before its requests in flight have come back") {
  const TempDirectory directory;
  DiskConfig disk = makeFaultyDisk(directory);
  CheckpointResult result;
  {
    Rig rig(1, {disk});
    rig.boot("disk");
    REQUIRE(usesDisk(rig));
    result = saveAcross(rig, *disk.faults, disk.faults->close(Faults::kAll),
                        request(directory, "0", true));
  }
  CHECK(inFlight(result) > 0);
  for (int generation = 1; generation <= 3; ++generation) {
    const std::string from = directory.path() + "/" + std::to_string(generation - 1);
    disk = diskOf(result, from + "/fresh");
    disk.faults = std::make_shared<Faults>();
    const unsigned gate = disk.faults->close(Faults::kAll);
    Rig rig(1, {disk});
    rig.restore(from, result, true);
    rig.machine->start();
    result =
        saveAcross(rig, *disk.faults, gate, request(directory, std::to_string(generation), true));
    CHECK(inFlight(result) > 0);
    CHECK(usesDisk(rig));
  }
}

TEST_CASE("a checkpoint that waits for writes in flight can be cancelled, and closed upon") {
  const TempDirectory directory;
  const DiskConfig disk = makeFaultyDisk(directory);
  auto rig = std::make_unique<Rig>(1, std::vector<DiskConfig>{disk});
  rig->boot("disk");
  REQUIRE(usesDisk(*rig));
  const unsigned gate = disk.faults->close(Faults::kAll);
  REQUIRE(disk.faults->awaitHeld(gate, 4, std::chrono::seconds(60)));
  std::promise<void> resumed;
  auto at = resumed.get_future();
  const auto save = [&] {
    return failure([&] {
      rig->machine->save(request(directory, "c", true), [&](uint64_t) { resumed.set_value(); });
    });
  };
  auto failed = std::async(std::launch::async, save);
  at.wait();
  SUBCASE("cancelled") {
    rig->machine->cancelSave();
    CHECK(failed.get() == Code::cancelled);
    disk.faults->openAll();
    CHECK(usesDisk(*rig));
  }
  SUBCASE("closed") {
    auto closed = std::async(std::launch::async, [&] { rig->machine->close(); });
    CHECK(failed.get() == Code::cancelled);
    disk.faults->openAll();
    closed.get();
  }
}

}  // namespace ckptfs
