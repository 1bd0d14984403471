// What the sealed logs of a disk hold, copied to where it is to be instead: the parent below them
// (commit.h), or one log in their place (log_compaction.h).
//
// In the order of the disk, the newest version of each block alone: so the target is written in one
// direction, and each block once. Every block is checked against its checksum when it is read.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/progress.h"
#include "disk/layers.h"

namespace ckptfs {

/** The most that is copied in one piece. */
inline constexpr uint64_t kCopyPieceBytes = 1 << 20;

class CopyTarget {
 public:
  virtual ~CopyTarget() = default;
  /** The blocks read as zeros, but for those that write() brings data for. Comes before that. */
  virtual void zero(const ZeroExtent& extent) = 0;
  /** Blocks from `first` on, at most kMaxDataBlocks and kCopyPieceBytes; the last may reach beyond
   *  the end of the disk, where it is zeros. */
  virtual void write(uint64_t first, std::span<const std::byte> data) = 0;
};

/** How much copyLayers() will write, for Progress::expect(). */
uint64_t copiedBytes(const Layers& layers);

/** How many blocks at the begin of `entries`, which has some, are copied in one piece. */
uint64_t pieceBlocks(std::span<const IndexEntry> entries, uint64_t blockBytes);

/** Copies what all logs of `layers`, which are merged, hold; progress is in bytes of data. Throws
 *  Error: cancelled, damaged, io, and what the target does. */
void copyLayers(const Layers& layers, CopyTarget& into, Progress& progress);

}  // namespace ckptfs
