// How much of each redo log of a disk is still of use.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "disk/layers.h"

namespace ckptfs {

struct LogSurvey {
  std::string path;
  uint64_t bytes;  // final once sealed
  bool sealed;
  /** Of its data, what the disk is read from: no later record hides it, of this log or one above.
   */
  uint64_t liveBytes;
  /** What the log would have if it were compacted alone. */
  uint64_t compactBytes;
};

/** The logs as they are now, oldest first. Takes some ns for each block of them. */
std::vector<LogSurvey> surveyLogs(const Layers& layers);

}  // namespace ckptfs
