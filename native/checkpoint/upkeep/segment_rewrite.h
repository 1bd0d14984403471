// Copies the live bodies of some segments, as they are, into one new segment.
//
// Every byte that is copied is checked first. The sources are never changed. One thread.
#pragma once

#include <string>
#include <vector>

#include "base/page_buffer.h"
#include "base/progress.h"
#include "checkpoint/image/io_block_packer.h"
#include "checkpoint/image/segment.h"
#include "checkpoint/upkeep/live_segments.h"

namespace ckptfs {

class SegmentRewrite {
 public:
  /** Reads `sources`, of one kind, geometry and memory size, and writes a new segment of the same
   *  into `directory`; entries keep their order. Throws Error. `progress` counts bytes read. */
  SegmentRewrite(const std::string& directory, const std::vector<const LiveSegment*>& sources,
                 Progress& progress);

  /** The new segment's row of memory.map, and those of its IO blocks, whose `segment` is 0. */
  const format::MapSegment& row() const noexcept { return row_; }
  const std::vector<format::MapIoBlock>& ioBlocks() const noexcept { return ioBlocks_; }

  /** Where a body is now: IO block of ioBlocks(), offset in it. */
  struct Place {
    uint32_t ioBlock;
    uint32_t offset;
  };
  /** `at` must be that of a live body of sources[source]. */
  Place placeOf(size_t source, uint64_t at) const;

 private:
  void copy(size_t source, Progress& progress);
  void copyLive(size_t source, std::span<const std::byte> ioBlock, uint64_t at, size_t& next);
  void flush();

  const std::vector<const LiveSegment*> sources_;
  SegmentWriter writer_;
  IoBlockPacker packer_;
  const PageBuffer buffer_;  // one IO block of a source
  const PageBuffer bodies_;  // those in packer_
  size_t bodyBytes_ = 0;

  /** A body in packer_. */
  struct Pending {
    size_t source, index;
    size_t start;  // in bodies_
  };
  std::vector<Pending> pending_;
  std::vector<std::vector<Place>> places_;  // per source, per live body
  format::MapSegment row_;
  std::vector<format::MapIoBlock> ioBlocks_;
};

}  // namespace ckptfs
