// The texts of answers (src/native/fuse.ts), taken apart. Throws Error(usage) for another form.
#pragma once

#include <sys/stat.h>
#include <sys/statvfs.h>

#include <string>
#include <string_view>
#include <vector>

namespace ckptfs::fuse {

struct NodeStat {
  struct stat attributes;
  std::string key;
  double attributesSeconds;  // how long the kernel may keep them
  double entrySeconds;       // and the name
};

struct ListedEntry {
  std::string name;
  struct stat attributes;  // mode and inode number alone
};

struct Opened {
  enum class Caching : uint8_t { none, checked, kept };
  uint64_t handle;
  uint64_t bytes;
  std::string key;
  Caching caching;
  std::string version;
  bool polls;
};

NodeStat parseStat(std::string_view text);
std::vector<ListedEntry> parseList(std::string_view text);
struct statvfs parseCapacity(std::string_view text);
Opened parseOpened(std::string_view text);

}  // namespace ckptfs::fuse
