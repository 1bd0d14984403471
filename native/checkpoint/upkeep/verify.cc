#include "checkpoint/upkeep/verify.h"

#include <algorithm>
#include <filesystem>
#include <optional>

#include "base/error.h"
#include "base/parallel.h"
#include "checkpoint/image/io_block_index.h"
#include "checkpoint/image/memory_map.h"

namespace ckptfs {

namespace {

using Damages = std::vector<Damage>;

/** Runs one check and turns what it throws into a report; a cancellation goes on up. */
template <class Check>
Damages reported(const std::string& file, Check check) {
  std::string what;
  try {
    return check();
  } catch (const Error& error) {
    if (error.code() == Code::cancelled) throw;
    what = error.what();
  } catch (const std::exception& error) {
    what = error.what();
  }
  // Messages begin with the path, which the report has already.
  if (what.starts_with(file + ": ")) what.erase(0, file.size() + 2);
  return {{file, what}};
}

/** What can be looked at without a map. */
std::vector<std::string> segmentFiles(const std::string& directory) {
  std::vector<std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    const std::string extension = entry.path().extension();
    if (extension == ".hot" || extension == ".cold") files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

uint64_t bytesOf(const std::string& file) {
  std::error_code error;
  const uintmax_t bytes = std::filesystem::file_size(file, error);
  return error ? 0 : bytes;
}

}  // namespace

std::vector<Damage> verifyMemoryImage(const std::string& directory, Progress& progress,
                                      const VerifyOptions& options) {
  const std::string mapFile = directory + "/" + MemoryMap::kFileName;
  std::optional<MemoryMap> map;
  std::optional<IoBlockIndex> blocks;
  std::vector<std::string> files;
  Damages damages = reported(mapFile, [&]() -> Damages {
    map = MemoryMap::read(mapFile);
    blocks.emplace(*map);
    return {};
  });
  if (map) {
    for (uint32_t i = 0; i < map->segments.size(); ++i)
      files.push_back(directory + "/" + map->segmentName(i));
  } else {
    const Damages unlisted = reported(directory, [&]() -> Damages {
      files = segmentFiles(directory);
      return {};
    });
    damages.insert(damages.end(), unlisted.begin(), unlisted.end());
  }

  for (const std::string& file : files) progress.expect(bytesOf(file));
  const uint64_t mapBytes = bytesOf(mapFile);
  progress.expect(mapBytes);
  progress.advance(mapBytes);
  std::vector<Damages> found(files.size());
  forEachInParallel(options.threads, files.size(), [&](uint64_t i) {
    const auto advance = [&](uint64_t bytes) { progress.advance(bytes); };
    found[i] = reported(files[i], [&] {
      auto check = map ? SegmentCheck(files[i], advance, *map, *blocks, static_cast<uint32_t>(i))
                       : SegmentCheck(files[i], advance);
      return check.run(options.verified);
    });
  });

  for (Damages& of : found) damages.insert(damages.end(), of.begin(), of.end());
  if (damages.size() > kMaxDamages) {
    damages.resize(kMaxDamages - 1);
    damages.push_back({directory, "more damage than is listed here"});
  }
  return damages;
}

}  // namespace ckptfs
