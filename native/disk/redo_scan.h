// Finds out what a redo log holds when it is opened or verified, and tells a torn tail from damage.
//
// - A sealed log ends with a seal record that gives the exact size of the file. Its index is taken
//   from the index record before the seal; a seal whose index is not valid is damage.
// - A log without a seal was being written when its writer died. Its records are gone through in
//   order. The first that is not whole ends the log, and is a torn tail, unless a record vouches
//   that its place was durable: then it was whole once, and is damage. Every record carries how
//   much of the log was durable when it was written, and a flush leaves a mark that says so.
// A scan never changes the file. docs/disk-format.md gives the argument in full.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "disk/file.h"
#include "disk/redo_index.h"
#include "disk/redo_record.h"

namespace ckptfs {

struct RedoScan {
  RedoIndex index;                                 // of a log without a seal
  std::shared_ptr<const SealedIndex> sealedIndex;  // of one with a seal; null without
  uint64_t end = 0;                                // the log's bytes, without a torn tail
  uint64_t nextSequence = 1;
  uint64_t durableBytes = 0;  // known to have been durable
};

/** What is wrong with which file. */
struct DiskProblem {
  std::string file;
  std::string what;
};

/** Whether the log at `path` ends with a seal; nothing else is looked at. Throws Error. */
bool hasSeal(const std::string& path);

/** Throws Error(damaged), saying which record and why. */
RedoScan scanRedoLog(const File& file, const RedoHeader& header);

/**
 * Checks every byte of the log at `path`; with `sealedBytes`, that it is sealed and exactly so
 * long. Empty if all is well. A missing or unreadable file is a problem too; one that a VM writes
 * is Error(busy).
 */
std::vector<DiskProblem> verifyRedoLog(const std::string& path,
                                       std::optional<uint64_t> sealedBytes);

}  // namespace ckptfs
