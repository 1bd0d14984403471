// Compaction: gives back the room of what no checkpoint needs any more (requirement F4).
//
// Incremental checkpoints share segments. When checkpoints are removed, or a block has changed in
// all that are left, its old body stays in a segment that others still need. Segments of which less
// than half is needed are replaced by one that holds the needed bodies, copied as they are.
//
// Nothing is changed in place: new files are written into a staging directory per checkpoint, next
// to which the old checkpoint stays whole until its owner exchanges the two. Whoever reads a
// checkpoint meanwhile keeps the files that it has open.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/progress.h"

namespace ckptfs {

/** What a compaction does, or would do. */
struct Compaction {
  /** A checkpoint that gets a new memory.map. */
  struct Checkpoint {
    size_t index;                       // in what was given
    std::vector<std::string> segments;  // file names that its new map refers to; when done
  };

  uint64_t segments = 0;      // different ones in all checkpoints
  uint64_t segmentBytes = 0;  // of them
  uint64_t rewritten = 0;     // segments that are replaced
  uint64_t rewrittenBytes = 0;
  uint64_t written = 0;       // segments that replace them
  uint64_t writtenBytes = 0;  // planned: an upper bound
  std::vector<Checkpoint> checkpoints;
};

/** What compacting all checkpoints of a VM, given by directory, would do. Throws Error. */
Compaction planCompaction(const std::vector<std::string>& directories);

/** A checkpoint and the directory that its new files go to, which must not exist. */
struct CompactionTarget {
  std::string directory;
  std::string staging;
};

/** Makes the staging directory of each checkpoint that changes, with its new memory.map and the new
 *  segments that it refers to, all of them durable; each new segment is one file with several
 *  links. The other files are the caller's to add. Throws Error; then the caller removes the
 *  staging directories. `progress` counts bytes of the segments that are replaced. */
Compaction compactCheckpoints(const std::vector<CompactionTarget>& targets, Progress& progress);

}  // namespace ckptfs
