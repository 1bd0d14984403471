// memory.map: for every memory block of a checkpoint, where its contents are (memory-IO map).
//
// A plain value. encode() and decode() are exact inverses; decode() takes hostile bytes: whatever
// it returns is consistent in itself, so that readers may index the tables without further checks.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/large_table.h"
#include "checkpoint/image/format.h"

namespace ckptfs {

struct MemoryMap {
  static constexpr const char* kFileName = "memory.map";

  uint64_t memoryBytes = 0;
  Geometry geometry;
  std::vector<format::MapSegment> segments;  // newest checkpoint first, its hot before its cold
  std::vector<format::MapIoBlock> ioBlocks;  // by segment, then offset; each has a block in it
  LargeTable<format::MapBlock> blocks;       // by block id

  const char* segmentName(uint32_t segment) const { return segments[segment].name; }

  /** Brings the IO block table into its order and the block table's references along. */
  void sortIoBlocks();
  std::vector<std::byte> encode() const;
  /** Throws Error(damaged) naming `path` and the place, Error(unsupported) for another version. */
  static MemoryMap decode(std::span<const std::byte> bytes, const std::string& path);
  /** Reads and decodes a file. */
  static MemoryMap read(const std::string& path);

 private:
  /** Fills `into` from a byte offset of the encoded map, which reaches that far. */
  using ReadAt = std::function<void(uint64_t offset, std::span<std::byte> into)>;
  static MemoryMap decode(uint64_t bytes, const ReadAt& readAt, const std::string& path);
};

/** Throws Error(usage) when a checkpoint cannot hold memory of this shape. */
void checkCheckpointable(const Geometry& geometry, uint64_t memoryBytes);

}  // namespace ckptfs
