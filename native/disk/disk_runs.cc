#include "disk/disk_runs.h"

#include <algorithm>

namespace ckptfs {

ByteRun DiskRuns::at(uint64_t offset) {
  std::call_once(found_, [this] {
    for (const LayerRun& run : disk_->map()) {
      if (runs_.empty() || runs_.back().hole != run.zeroes) runs_.push_back({0, run.zeroes});
      runs_.back().end = run.offset + run.bytes;
    }
  });
  const auto run = std::upper_bound(runs_.begin(), runs_.end(), offset,
                                    [](uint64_t at, const Run& r) { return at < r.end; });
  if (run == runs_.end()) return {disk_->bytes() - offset, false};
  return {run->end - offset, run->hole};
}

}  // namespace ckptfs
