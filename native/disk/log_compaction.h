// One sealed redo log in the place of a run of adjacent sealed ones, without what is dead in them.
//
// It has the id of the newest of them, and of the oldest the parentId: an id stands for the disk as
// it is with the log and all below it, and that is the same (docs/disk-format.md). So the log above
// follows it as it followed the newest, and it follows what the oldest did.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "base/progress.h"
#include "disk/layers.h"

namespace ckptfs {

/** Logs of a disk that one is to replace. */
struct LogRun {
  size_t first = 0;  // the oldest of them, counted from the oldest of the disk
  size_t logs = 0;
  std::string path;  // of the one; may be that of one of them
};

/** Bytes of a sealed log that holds just this. */
uint64_t compactBytes(const SealedIndex& index, uint64_t blockBytes);

/** A log that has been made and is not yet in its place; used by one thread. */
class CompactedLog {
 public:
  /** Makes it, durable and sealed, of all logs of `layers`, which are merged, under a temporary
   *  name beside `path`. Throws Error, with nothing left: cancelled, damaged, io, noSpace. */
  CompactedLog(const Layers& layers, const std::string& path, Progress& progress);
  /** Removes it unless it was published. */
  ~CompactedLog();
  CompactedLog(const CompactedLog&) = delete;
  CompactedLog& operator=(const CompactedLog&) = delete;

  /** Gives it its name, at once; a file that had it is gone. Durable once the directory is synced.
   */
  std::shared_ptr<RedoLog> publish();

 private:
  const std::string path_;
  const std::shared_ptr<RedoLog> log_;
};

}  // namespace ckptfs
