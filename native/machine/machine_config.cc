#include "machine/machine_config.h"

#include <charconv>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace ckptfs {
namespace {

/** Parses `json` with `read`; nlohmann's type and key errors become Error(usage). */
template <class Read>
auto parse(const std::string& json, const char* what, Read read) {
  try {
    return read(Json::parse(json));
  } catch (const nlohmann::json::exception& error) {
    throw Error(Code::usage, std::string(what) + ": " + error.what());
  }
}

/** A 64-bit number as a string of digits: JavaScript would round a JSON number. */
uint64_t parseDecimal(const std::string& text) {
  uint64_t value = 0;
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc{} || stop != end)
    throw Error(Code::usage, "\"" + text + "\" is not a 64-bit decimal number");
  return value;
}

std::string toHex(const LogId& id) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string hex;
  for (const uint8_t byte : id) hex.append({kDigits[byte >> 4], kDigits[byte & 15]});
  return hex;
}

LogId parseLogId(const std::string& hex) {
  LogId id;
  if (hex.size() != 2 * id.size()) throw Error(Code::usage, "\"" + hex + "\" is no id of a log");
  for (size_t i = 0; i < id.size(); ++i) {
    const char* const at = hex.data() + 2 * i;
    const auto [stop, error] = std::from_chars(at, at + 2, id[i], 16);
    if (error != std::errc{} || stop != at + 2)
      throw Error(Code::usage, "\"" + hex + "\" is no id of a log");
  }
  return id;
}

void readLayers(const Json& json, DiskLayers& layers) {
  json.at("parent").get_to(layers.parent);
  for (const Json& log : json.at("redo")) {
    Chain::LayerSpec layer{log.at("path"), {}};
    if (const auto it = log.find("bytes"); it != log.end()) layer.sealedBytes = it->get<uint64_t>();
    layers.redo.push_back(std::move(layer));
  }
  if (const auto it = json.find("committed"); it != json.end()) layers.committed = parseLogId(*it);
  if (const auto it = json.find("parentIdentity"); it != json.end()) {
    ParentIdentity identity;
    it->at("bytes").get_to(identity.bytes);
    identity.mtimeNs = parseDecimal(it->at("mtimeNs"));
    layers.parentIdentity = identity;
  }
}

}  // namespace

format::Codec parseCodec(const std::string& name) {
  if (name == "none") return format::Codec::raw;
  if (name == "lz4") return format::Codec::lz4;
  if (name == "zstd") return format::Codec::zstd;
  throw Error(Code::usage, "there is no codec " + name + "; use lz4, zstd or none");
}

DiskLayers parseDiskLayers(const std::string& text) {
  return parse(text, "disk layers", [](const Json& json) {
    DiskLayers layers;
    readLayers(json, layers);
    return layers;
  });
}

Commit parseCommit(const std::string& text) {
  return parse(text, "commit", [](const Json& json) {
    return Commit{.logs = json.at("logs"),
                  .into = json.value("into", std::string()),
                  .again = json.at("again")};
  });
}

std::vector<LogRun> parseLogRuns(const std::string& text) {
  return parse(text, "compaction", [](const Json& json) {
    std::vector<LogRun> runs;
    for (const Json& run : json) runs.push_back({run.at("first"), run.at("logs"), run.at("path")});
    return runs;
  });
}

MachineConfig parseMachineConfig(const std::string& text) {
  return parse(text, "machine configuration", [](const Json& json) {
    MachineConfig config;
    json.at("memoryBytes").get_to(config.memoryBytes);
    json.at("cpus").get_to(config.cpus);
    json.at("trace").get_to(config.trace);
    const Json& geometry = json.at("geometry");
    geometry.at("pageBytes").get_to(config.geometry.pageBytes);
    geometry.at("pagesPerBlock").get_to(config.geometry.pagesPerBlock);
    geometry.at("blocksPerIoBlock").get_to(config.geometry.blocksPerIoBlock);
    for (const Json& item : json.at("disks")) {
      DiskConfig disk;
      readLayers(item, disk);
      item.at("id").get_to(disk.id);
      item.at("access").get_to(disk.access);
      if (const auto it = item.find("fault"); it != item.end()) {
        disk.faults = std::make_shared<Faults>();
        disk.faults->delay(std::chrono::milliseconds(it->at("delayMs").get<uint32_t>()));
      }
      config.disks.push_back(std::move(disk));
    }
    return config;
  });
}

Json toJson(const ParentIdentity& identity) {
  return {{"bytes", identity.bytes}, {"mtimeNs", std::to_string(identity.mtimeNs)}};
}

Json parentJson(const Chain& chain) {
  Json json = {{"parent", chain.parentPath()}, {"parentIdentity", toJson(chain.parentIdentity())}};
  if (chain.committed() != LogId{}) json["committed"] = toHex(chain.committed());
  return json;
}

Json surveyJson(const Chain& chain) {
  Json logs = Json::array();
  for (const LogSurvey& log : chain.survey())
    logs.push_back({{"path", log.path},
                    {"bytes", log.bytes},
                    {"sealed", log.sealed},
                    {"liveBytes", log.liveBytes},
                    {"compactBytes", log.compactBytes}});
  return logs;
}

CheckpointRequest parseCheckpointRequest(const std::string& text) {
  return parse(text, "save request", [](const Json& json) {
    CheckpointRequest request;
    json.at("id").get_to(request.id);
    json.at("directory").get_to(request.directory);
    request.codec = parseCodec(json.at("codec"));
    if (const auto it = json.find("base"); it != json.end())
      request.base = {it->at("id"), it->at("directory")};
    json.at("suspend").get_to(request.suspend);
    const std::string drain = json.at("drain");
    if (drain != "drain" && drain != "in-flight")
      throw Error(Code::usage,
                  "there is no way \"" + drain + "\" to drain; use drain or in-flight");
    request.inFlight = drain == "in-flight";
    request.limitBytesPerSecond = json.value("limitBytesPerSecond", uint64_t{0});
    if (const auto it = json.find("holdLimitMs"); it != json.end())
      request.holdLimitMs = it->get<uint64_t>();
    json.at("oracle").get_to(request.oracle);
    for (const Json& item : json.at("redo"))
      request.redo.push_back({item.at("disk"), item.at("path")});
    return request;
  });
}

RestoreRequest parseRestoreRequest(const std::string& text) {
  return parse(text, "restore request", [](const Json& json) {
    return RestoreRequest{.id = json.at("id"),
                          .deviceState = json.at("deviceState"),
                          .lazy = json.at("lazy"),
                          .orderFile = json.value("orderFile", std::string()),
                          .limitBytesPerSecond = json.value("limitBytesPerSecond", uint64_t{0})};
  });
}

Json toJson(const CheckpointResult& r) {
  Json disks = Json::array();
  for (const DiskConfig& disk : r.disks) {
    Json redo = Json::array();
    for (const auto& log : disk.redo)
      redo.push_back({{"path", log.path}, {"bytes", log.sealedBytes.value()}});
    disks.push_back({{"id", disk.id},
                     {"access", disk.access},
                     {"parent", disk.parent},
                     {"parentIdentity", toJson(disk.parentIdentity.value())},
                     {"redo", redo}});
    if (disk.committed != LogId{}) disks.back()["committed"] = toHex(disk.committed);
  }
  return Json{
      {"pauseUs", r.pauseUs},
      {"phasesUs",
       {{"quiesce", r.phasesUs.quiesce},
        {"arm", r.phasesUs.arm},
        {"state", r.phasesUs.state},
        {"switch", r.phasesUs.switch_},
        {"wait", r.phasesUs.wait}}},
      {"totalUs", r.totalUs},
      {"memoryBytes", r.memoryBytes},
      {"storedBytes", r.storedBytes},
      {"blocks",
       {{"vcpu", r.blocks.vcpu},
        {"background", r.blocks.background},
        {"zero", r.blocks.zero},
        {"parent", r.blocks.parent},
        {"duplicate", r.blocks.duplicate}}},
      {"faults", r.faults},
      {"disks", disks},
      {"deviceState", r.deviceState},
      {"guestTicks", std::to_string(r.guestTicks)},
      {"incremental", r.incremental},
      {"segments", r.segments},
  };
}

}  // namespace ckptfs
