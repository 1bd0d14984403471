#include "fuse/answers.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace ckptfs::fuse {

namespace {

using Json = nlohmann::json;

/** What read() calls of cat, cp and the like ask for. */
constexpr long kPreferredBytes = 1 << 20;

template <class Convert>
auto parsed(std::string_view text, Convert convert) {
  try {
    return convert(Json::parse(text));
  } catch (const Json::exception& error) {
    throw Error(Code::usage, std::string("not an answer of the tree: ") + error.what());
  }
}

struct timespec timeOf(double ms) {
  const double seconds = std::floor(ms / 1000);
  return {time_t(seconds), long((ms - seconds * 1000) * 1e6)};
}

struct stat attributesOf(const Json& json) {
  struct stat attributes {};
  attributes.st_mode = json.at("mode");
  attributes.st_ino = json.at("inode");
  attributes.st_size = json.at("bytes");
  attributes.st_blocks = json.at("blocks");
  attributes.st_nlink = json.at("nlink");
  attributes.st_uid = json.at("uid");
  attributes.st_gid = json.at("gid");
  attributes.st_blksize = kPreferredBytes;
  attributes.st_mtim = timeOf(json.at("timeMs"));
  attributes.st_atim = attributes.st_ctim = attributes.st_mtim;
  return attributes;
}

Opened::Caching cachingOf(const std::string& name) {
  if (name == "kept") return Opened::Caching::kept;
  return name == "checked" ? Opened::Caching::checked : Opened::Caching::none;
}

}  // namespace

NodeStat parseStat(std::string_view text) {
  return parsed(text, [](const Json& json) {
    return NodeStat{attributesOf(json), json.at("key"), json.at("attributesSeconds"),
                    json.at("entrySeconds")};
  });
}

std::vector<ListedEntry> parseList(std::string_view text) {
  return parsed(text, [](const Json& json) {
    std::vector<ListedEntry> entries;
    entries.reserve(json.size());
    for (const Json& entry : json) {
      struct stat attributes {};
      attributes.st_mode = entry.at("mode");
      attributes.st_ino = entry.at("inode");
      entries.push_back({entry.at("name"), attributes});
    }
    return entries;
  });
}

struct statvfs parseCapacity(std::string_view text) {
  return parsed(text, [](const Json& json) {
    struct statvfs capacity {};
    capacity.f_bsize = capacity.f_frsize = json.at("blockBytes");
    capacity.f_blocks = json.at("blocks");
    capacity.f_bfree = json.at("free");
    capacity.f_bavail = json.at("available");
    capacity.f_files = json.at("files");
    capacity.f_ffree = capacity.f_favail = json.at("filesFree");
    capacity.f_namemax = json.at("maxNameBytes");
    return capacity;
  });
}

Opened parseOpened(std::string_view text) {
  return parsed(text, [](const Json& json) {
    return Opened{json.at("handle"),  json.at("bytes"),
                  json.at("key"),     cachingOf(json.at("caching")),
                  json.at("version"), json.at("polls")};
  });
}

}  // namespace ckptfs::fuse
