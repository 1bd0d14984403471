// Verification: reads every byte of a checkpoint's memory.map and segments and reports what is
// wrong.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace ckptfs {

/** One damaged place. */
struct Damage {
  std::string file;  // path
  std::string what;
};

/** At most this many places are reported; the last one then says that there are more. */
inline constexpr size_t kMaxDamages = 100;

/** Checks the memory image in `directory`; empty when every byte is as it was written. Damage and
 *  unreadable files are reported, not thrown. `onProgress` is told the bytes read so far. */
std::vector<Damage> verifyMemoryImage(const std::string& directory,
                                      const std::function<void(uint64_t)>& onProgress = {});

}  // namespace ckptfs
