#include "machine/machine_config.h"

#include <doctest/doctest.h>

#include <functional>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace ckptfs {
namespace {

const Json kMachine = Json::parse(R"({
  "memoryBytes": 8589934592, "cpus": 4, "trace": "mprotect",
  "geometry": {"pageBytes": 4096, "pagesPerBlock": 16, "blocksPerIoBlock": 4},
  "disks": [
    {"id": "vda", "access": "redo", "parent": "/p",
     "parentIdentity": {"bytes": 1048576, "mtimeNs": "1763715294123456789"},
     "redo": [{"path": "/r0", "bytes": 4096}, {"path": "/r1"}], "fault": {"delayMs": 1}},
    {"id": "vdb", "access": "readonly", "parent": "/q", "redo": []}]})");
const Json kSave = Json::parse(R"({
  "id": "1f", "directory": "/d", "codec": "zstd", "suspend": true, "drain": "in-flight",
  "base": {"id": "0e", "directory": "/b"}, "limitBytesPerSecond": 1000000, "oracle": true,
  "holdLimitMs": 250,
  "redo": [{"disk": "vda", "path": "/r2"}]})");
const Json kRestore = Json::parse(R"({
  "id": "1f", "deviceState": "{}", "lazy": false, "orderFile": "/o",
  "limitBytesPerSecond": 2000000})");

/** Every way to leave out, or to give as another type, one member at any depth is refused. */
void checkRejects(const Json& good, const std::function<void(const std::string&)>& parse,
                  const std::vector<std::string>& optional) {
  CHECK_NOTHROW(parse(good.dump()));
  const Json flat = good.flatten();
  std::vector<Json::json_pointer> pointers;
  for (const auto& [path, value] : flat.items())
    for (Json::json_pointer p(path); !p.empty(); p = p.parent_pointer()) pointers.push_back(p);
  for (const Json::json_pointer& at : pointers) {
    CAPTURE(at.to_string());
    const auto refused = [&](const Json& bad) {
      try {
        parse(bad.dump());
        return false;
      } catch (const Error& error) {
        return error.code() == Code::usage;
      }
    };
    Json wrong = good;
    wrong[at] = wrong[at].is_array() ? Json(true) : Json::array();
    CHECK(refused(wrong));
    if (!good.at(at.parent_pointer()).is_object()) continue;
    Json missing = good;
    missing[at.parent_pointer()].erase(at.back());
    bool mayMiss = false;
    for (const std::string& name : optional) mayMiss |= at.back() == name;
    if (mayMiss && (at.back() != "bytes" || at.to_string().find("redo") != std::string::npos))
      CHECK_NOTHROW(parse(missing.dump()));
    else
      CHECK(refused(missing));
  }
  for (const char* text : {"", "{", "null", "[]", "7"}) {
    CAPTURE(text);
    CHECK_THROWS_AS(parse(text), Error);
  }
}

}  // namespace

TEST_CASE("a machine configuration is read from JSON") {
  const MachineConfig config = parseMachineConfig(kMachine.dump());
  CHECK(config.memoryBytes == 8589934592);
  CHECK(config.cpus == 4);
  CHECK(config.trace == "mprotect");
  CHECK(config.geometry == Geometry{4096, 16, 4});
  REQUIRE(config.disks.size() == 2);
  const DiskConfig& disk = config.disks[0];
  CHECK(disk.id == "vda");
  CHECK(disk.access == "redo");
  CHECK(disk.parent == "/p");
  REQUIRE(disk.parentIdentity);
  CHECK(disk.parentIdentity->bytes == 1048576);
  CHECK(disk.parentIdentity->mtimeNs == 1763715294123456789);  // more than a double holds
  REQUIRE(disk.redo.size() == 2);
  CHECK(disk.redo[0].path == "/r0");
  CHECK(disk.redo[0].sealedBytes == 4096);
  CHECK_FALSE(disk.redo[1].sealedBytes);
  CHECK(disk.faults);
  CHECK_FALSE(config.disks[1].parentIdentity);
  CHECK_FALSE(config.disks[1].faults);
}

TEST_CASE("requests are read from JSON") {
  const CheckpointRequest save = parseCheckpointRequest(kSave.dump());
  CHECK(save.id == "1f");
  CHECK(save.directory == "/d");
  CHECK(save.codec == format::Codec::zstd);
  REQUIRE(save.base);
  CHECK(save.base->id == "0e");
  CHECK(save.base->directory == "/b");
  CHECK(save.suspend);
  CHECK(save.inFlight);
  CHECK(save.limitBytesPerSecond == 1'000'000);
  CHECK(save.holdLimitMs == 250);
  CHECK(save.oracle);
  REQUIRE(save.redo.size() == 1);
  CHECK(save.redo[0].disk == "vda");
  CHECK(save.redo[0].path == "/r2");
  const RestoreRequest restore = parseRestoreRequest(kRestore.dump());
  CHECK(restore.id == "1f");
  CHECK(restore.deviceState == "{}");
  CHECK_FALSE(restore.lazy);
  CHECK(restore.orderFile == "/o");
  CHECK(restore.limitBytesPerSecond == 2'000'000);
}

TEST_CASE("what has another shape is refused") {
  checkRejects(kMachine, parseMachineConfig, {"bytes", "parentIdentity", "fault"});
  checkRejects(kSave, parseCheckpointRequest, {"base", "limitBytesPerSecond", "holdLimitMs"});
  checkRejects(kRestore, parseRestoreRequest, {"orderFile", "limitBytesPerSecond"});
  Json layers = kMachine.at("disks").at(0);
  layers.erase("id");
  layers.erase("access");
  layers.erase("fault");
  checkRejects(layers, parseDiskLayers, {"bytes", "parentIdentity"});
  Json bad = kSave;
  bad["codec"] = "gzip";
  CHECK_THROWS_AS(parseCheckpointRequest(bad.dump()), Error);
  bad = kSave;
  bad["drain"] = "no";
  CHECK_THROWS_AS(parseCheckpointRequest(bad.dump()), Error);
  for (const char* time : {"", "x", "12x", "-1", "99999999999999999999999"}) {
    CAPTURE(time);
    bad = kMachine.at("disks").at(0);
    bad["parentIdentity"]["mtimeNs"] = time;
    CHECK_THROWS_AS(parseDiskLayers(bad.dump()), Error);
  }
}

TEST_CASE("the disks of a result are layers that can be opened again") {
  CheckpointResult result;
  result.pauseUs = 1500;
  result.phasesUs = {1, 2, 3, 4, 5};
  result.blocks = {5, 6, 7, 8, 9};
  result.incremental = true;
  result.segments = {"a.hot", "b.cold"};
  result.guestTicks = 1763715294123456789;
  result.deviceState = "{}\n";
  DiskConfig disk;
  disk.id = "vda";
  disk.access = "redo";
  disk.parent = "/p";
  disk.parentIdentity = ParentIdentity{};
  disk.parentIdentity->bytes = 4096;
  disk.parentIdentity->mtimeNs = UINT64_MAX;
  disk.redo.push_back({"/r0", 8192});
  result.disks.push_back(disk);

  const Json json = Json::parse(toJson(result).dump());
  CHECK(json.at("pauseUs") == 1500);
  CHECK(json.at("phasesUs") ==
        Json{{"quiesce", 1}, {"arm", 2}, {"state", 3}, {"switch", 4}, {"wait", 5}});
  CHECK(json.at("blocks") ==
        Json{{"vcpu", 5}, {"background", 6}, {"zero", 7}, {"parent", 8}, {"duplicate", 9}});
  CHECK(json.at("incremental") == true);
  CHECK(json.at("segments") == Json{"a.hot", "b.cold"});
  CHECK(json.at("guestTicks") == "1763715294123456789");
  CHECK(json.at("deviceState") == "{}\n");
  const DiskLayers layers = parseDiskLayers(json.at("disks").at(0).dump());
  CHECK(layers.parent == disk.parent);
  REQUIRE(layers.parentIdentity);
  CHECK(layers.parentIdentity->bytes == 4096);
  CHECK(layers.parentIdentity->mtimeNs == UINT64_MAX);
  REQUIRE(layers.redo.size() == 1);
  CHECK(layers.redo[0].path == "/r0");
  CHECK(layers.redo[0].sealedBytes == 8192);
}

}  // namespace ckptfs
