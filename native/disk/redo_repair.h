// What can be saved of a damaged redo log.
#pragma once

#include <cstdint>
#include <string>

namespace ckptfs {

struct RedoRepair {
  uint64_t keptBytes = 0;
  /** Of records that could not be kept: the first that is not whole and all after it. What follows
   *  may be whole, but a disk with what came later and without what came before it never was. */
  uint64_t lostBytes = 0;
};

/**
 * Writes to the new file `into` the log at `path` up to the last record before the first that is
 * not whole; it is not sealed. Throws Error: damaged if its header is; exists, notFound, busy, io.
 */
RedoRepair repairRedoLog(const std::string& path, const std::string& into);

}  // namespace ckptfs
