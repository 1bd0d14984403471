// Live checkpoints of a guest that never stops using its disk, both ways of requirement A14.
#include <doctest/doctest.h>

#include <cstring>
#include <fstream>
#include <future>

#include "test/machine/rig.h"

namespace ckptfs {
namespace {

/** A raw disk of 1 MiB behind faults. */
DiskConfig makeDisk(const TempDirectory& directory) {
  DiskConfig disk;
  disk.id = "vda";
  disk.access = "direct";
  disk.parent = directory.path() + "/disk.raw";
  disk.faults = std::make_shared<Faults>();
  std::ofstream(disk.parent) << "parent";
  std::filesystem::resize_file(disk.parent, 1 << 20);
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

size_t inFlight(const CheckpointResult& result) {
  return Json::parse(result.deviceState)["devices"]["virtio0"]["inFlight"].size();
}

}  // namespace

TEST_CASE("a guest that uses its disk is saved and restored with requests in flight, or drained") {
  const TempDirectory directory;
  const DiskConfig disk = makeDisk(directory);
  Rig rig(1, {disk});
  rig.boot("disk");
  REQUIRE(usesDisk(rig));
  size_t withRequests = 0;
  for (int round = 0; round < (kSanitized ? 6 : 24); ++round) {
    CAPTURE(round);
    const bool across = round % 3 != 2;
    disk.faults->delay(std::chrono::milliseconds(round % 2 == 0 ? 0 : 3));
    const std::string name = std::to_string(round);
    const auto result = rig.machine->save({.directory = directory.make(name),
                                           .codec = "none",
                                           .redo = {{"vda", directory.path() + "/redo" + name}},
                                           .inFlight = across},
                                          [](uint64_t) {});
    withRequests += inFlight(result) > 0;
    if (!across) CHECK(inFlight(result) == 0);
    REQUIRE(usesDisk(rig));
    Rig restored(1, {diskOf(result, directory.path() + "/fresh" + name)});
    restored.restore(directory.path() + "/" + name, result, round % 2 == 0);
    restored.machine->start();
    REQUIRE(usesDisk(restored));
  }
  CHECK(withRequests > 0);
}

TEST_CASE("a restored guest is saved again before its requests in flight have come back") {
  const TempDirectory directory;
  DiskConfig disk = makeDisk(directory);
  CheckpointResult result;
  {
    Rig rig(1, {disk});
    rig.boot("disk");
    REQUIRE(usesDisk(rig));
    disk.faults->delay(std::chrono::milliseconds(5));
    result = rig.machine->save({.directory = directory.make("first"),
                                .codec = "none",
                                .redo = {{"vda", directory.path() + "/redo0"}},
                                .inFlight = true},
                               [](uint64_t) {});
  }
  CHECK(inFlight(result) > 0);
  for (int generation = 1; generation <= 3; ++generation) {
    const std::string name = std::to_string(generation);
    const std::string from = generation == 1 ? "first" : std::to_string(generation - 1);
    disk = diskOf(result, directory.path() + "/fresh" + name);
    disk.faults = std::make_shared<Faults>();
    const unsigned gate = disk.faults->close(Faults::kAll);
    Rig rig(1, {disk});
    rig.restore(directory.path() + "/" + from, result, true);
    rig.machine->start();
    REQUIRE(disk.faults->awaitHeld(gate, 1, std::chrono::seconds(60)));
    auto saved = std::async(std::launch::async, [&] {
      std::promise<void> resumed;
      auto at = resumed.get_future();
      auto done = std::async(std::launch::async, [&] {
        return rig.machine->save({.directory = directory.make(name),
                                  .codec = "none",
                                  .redo = {{"vda", directory.path() + "/redo" + name}},
                                  .inFlight = true},
                                 [&](uint64_t) { resumed.set_value(); });
      });
      at.wait();  // only now may the requests go on
      disk.faults->openAll();
      return done.get();
    });
    result = saved.get();
    CHECK(inFlight(result) > 0);
    CHECK(usesDisk(rig));
  }
}

TEST_CASE("a checkpoint that waits for writes in flight can be cancelled, and closed upon") {
  const TempDirectory directory;
  const DiskConfig disk = makeDisk(directory);
  auto rig = std::make_unique<Rig>(1, std::vector<DiskConfig>{disk});
  rig->boot("disk");
  REQUIRE(usesDisk(*rig));
  const unsigned gate = disk.faults->close(Faults::kAll);
  REQUIRE(disk.faults->awaitHeld(gate, 4, std::chrono::seconds(60)));
  std::promise<void> resumed;
  auto at = resumed.get_future();
  const auto save = [&] {
    return failure([&] {
      rig->machine->save({.directory = directory.make("c"),
                          .codec = "none",
                          .redo = {{"vda", directory.path() + "/redo"}},
                          .inFlight = true},
                         [&](uint64_t) { resumed.set_value(); });
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
