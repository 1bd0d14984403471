// Device states of other versions: what is in golden/ was saved by them, of a Linux guest with a
// disk.
#include <doctest/doctest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "cpu/rv64/cpus.h"
#include "devices/memory_map.h"
#include "machine/platform.h"
#include "memory/guest_memory.h"
#include "test/cpu/no_host.h"
#include "test/machine/rig.h"

namespace ckptfs {
namespace {

Json golden(unsigned format) {
  const std::string name = "device-state-v" + std::to_string(format) + ".json";
  std::ifstream file(std::filesystem::path(__FILE__).parent_path() / "golden" / name);
  return Json::parse(file);
}

/** Devices and a vCPU as the golden files are of, with nothing that runs. */
class Parts final : NoHost {
 public:
  Parts()
      : platform(
            config(directory_), memory_, memory_map::kRamBase, [](unsigned, bool) {},
            [](std::span<const uint8_t>) {}),
        vcpus(makeRv64(memory_, memory_map::kRamBase, 1, *this)) {}

  Json devices() const {
    Json devices = Json::object();
    for (const auto& [name, frozen] : platform.freeze()) devices[name] = frozen->toJson();
    return devices;
  }

 private:
  static constexpr uint64_t kRamBytes = 128 << 20;

  static MachineConfig config(const TempDirectory& directory) {
    MachineConfig config;
    config.memoryBytes = kRamBytes;
    config.disks.push_back(makeDisk(directory, 64 << 20));
    return config;
  }

  const TempDirectory directory_;
  GuestMemory memory_{kRamBytes, Geometry{}};

 public:
  Platform platform;
  std::unique_ptr<VcpuSet> vcpus;
};

}  // namespace

TEST_CASE("the device state of every format is read, and nothing of it is lost") {
  for (unsigned format = 1; format <= kDeviceStateFormat; ++format) {
    CAPTURE(format);
    const Json state = golden(format);
    REQUIRE(state.at("format") == format);
    Parts parts;
    parts.vcpus->thaw(state.at("vcpus"));
    CHECK(parts.vcpus->freeze()->toJson() == state.at("vcpus"));
    parts.platform.thaw(state.at("devices"), format);
    Json now = parts.devices();
    if (format < 2) {
      CHECK(now.at("generation").at("unread") == false);
      now.erase("generation");
      CHECK_THROWS_AS(parts.platform.thaw(state.at("devices"), 2), Error);
    }
    if (format < 3) {
      CHECK(now.at("rtc").at("armed") == false);
      now.erase("rtc");
      CHECK_THROWS_AS(parts.platform.thaw(state.at("devices"), 3), Error);
    }
    CHECK(now == state.at("devices"));
  }
}

TEST_CASE("a machine of an older format goes on, and is saved in the newest") {
  const TempDirectory directory;
  Rig first;
  first.boot();
  REQUIRE(first.scribbled());
  CheckpointResult result = first.save(directory.make("first"));
  Json state = Json::parse(result.deviceState);
  CHECK(state.at("format") == kDeviceStateFormat);
  state["format"] = 1;
  for (const char* const later : {"generation", "rtc"}) state["devices"].erase(later);
  result.deviceState = state.dump();
  Rig rig;
  rig.restore(directory.path() + "/first", result, true);
  rig.machine->start();
  CHECK(rig.goesOn());
  const auto again = Json::parse(rig.save(directory.make("again")).deviceState);
  CHECK(again.at("format") == kDeviceStateFormat);
  for (const char* const later : {"generation", "rtc"}) CHECK(again.at("devices").contains(later));
}

TEST_CASE("each restore is a generation of its own; a guest that merely goes on stays in its own") {
  const TempDirectory directory;
  const auto generation = [](const CheckpointResult& result) {
    return Json::parse(result.deviceState).at("devices").at("generation");
  };
  Rig first;
  first.boot();
  REQUIRE(first.scribbled());
  const CheckpointResult one = first.save(directory.make("one"));
  first.machine->pause();
  first.machine->resume();
  CHECK(generation(first.save(directory.make("two"))) == generation(one));
  CHECK(generation(one).at("unread") == false);
  std::vector<Json> ids = {generation(one).at("id")};
  for (const char* name : {"a", "b"}) {
    Rig rig;
    rig.restore(directory.path() + "/one", one, true);
    rig.machine->start();
    CHECK(rig.goesOn());
    const Json now = generation(rig.save(directory.make(name)));
    CHECK(now.at("unread") == false);  // this guest has never looked for one
    for (const Json& id : ids) CHECK(now.at("id") != id);
    ids.push_back(now.at("id"));
  }
}

}  // namespace ckptfs
