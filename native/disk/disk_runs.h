// Where a disk that does not change has data, and where nothing is stored.
//
// Found at the first question, which takes as long as to go through the indexes of all layers. Safe
// from any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "base/byte_source.h"
#include "disk/chain.h"

namespace ckptfs {

class DiskRuns {
 public:
  /** Of a disk that was opened read-only. */
  explicit DiskRuns(std::shared_ptr<const Chain> disk) : disk_(std::move(disk)) {}

  /** From `offset`, within the disk, on. Throws Error. */
  ByteRun at(uint64_t offset);

 private:
  struct Run {
    uint64_t end;
    bool hole;
  };
  const std::shared_ptr<const Chain> disk_;
  std::once_flag found_;
  std::vector<Run> runs_;  // in order, data and holes in turns
};

}  // namespace ckptfs
