// Verification: reads every byte of a checkpoint's memory.map and segments and reports what is
// wrong (requirement F5).
#pragma once

#include <string>
#include <vector>

#include "base/progress.h"
#include "checkpoint/upkeep/segment_check.h"

namespace ckptfs {

struct VerifyOptions {
  /** Segments that need not be read again, to which whole ones are added; null: none. */
  VerifiedSegments* verified = nullptr;
  unsigned threads = 2;  // each checks a segment at a time
};

/** Checks the memory image in `directory`; empty when every byte is as it was written. Damage and
 *  unreadable files are reported, not thrown; Error(cancelled) is. `progress` counts bytes of the
 *  files. */
std::vector<Damage> verifyMemoryImage(const std::string& directory, Progress& progress,
                                      const VerifyOptions& options = {});

/** Without progress. */
inline std::vector<Damage> verifyMemoryImage(const std::string& directory) {
  Progress progress;
  return verifyMemoryImage(directory, progress);
}

}  // namespace ckptfs
