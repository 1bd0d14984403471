// What of each segment the checkpoints of one VM still need: the union over all their maps.
//
// Built by one thread, map after map, so that only one map is in memory at a time.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "checkpoint/image/memory_map.h"

namespace ckptfs {

/** A body that at least one map refers to. */
struct LiveBody {
  uint64_t at;  // in the file
  uint64_t checksum;
  uint32_t stored;
  format::Codec codec;
  uint8_t unused[3] = {};
};

struct LiveSegment {
  format::MapSegment row;
  Geometry geometry;
  uint64_t memoryBytes;
  std::string path;                               // in the first checkpoint that names it
  std::vector<uint32_t> checkpoints = {};         // that name it, by number, ascending
  std::vector<format::MapIoBlock> ioBlocks = {};  // by offset; `segment` is 0
  std::vector<LiveBody> bodies = {};              // by place

  /** Bytes of a segment of its own that holds nothing but the live bodies. */
  uint64_t packedBytes() const;
};

/** A segment's id as a key. */
using SegmentKey = std::vector<std::byte>;
SegmentKey keyOf(const format::MapSegment& segment);

class LiveSegments {
 public:
  /** Adds checkpoint number `checkpoint`, greater than those before. Throws Error(damaged) when it
   *  contradicts them. */
  void add(uint32_t checkpoint, const std::string& directory, const MemoryMap& map);

  /** In the order in which they were met first. */
  const std::vector<LiveSegment>& all() const noexcept { return segments_; }
  /** The index in all() of a segment that was added. */
  size_t indexOf(const format::MapSegment& segment) const { return indexes_.at(keyOf(segment)); }

 private:
  LiveSegment& find(const std::string& directory, const MemoryMap& map, const format::MapSegment&);

  std::vector<LiveSegment> segments_;
  std::map<SegmentKey, size_t> indexes_;
};

}  // namespace ckptfs
