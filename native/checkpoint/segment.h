// Segments: append-only files of IO blocks (the checkpoint's hot and cold parts, requirement B5).
//
// A writer belongs to one thread. Once sealed a segment never changes. A segment can be checked by
// itself; memory.map adds where the contents of each block are.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/block_codec.h"
#include "checkpoint/checkpoint_file.h"
#include "checkpoint/format.h"

namespace ckptfs {

class SegmentWriter {
 public:
  /** Creates the file in `directory`, named after a new random id, and writes the header. Throws
   *  Error. */
  SegmentWriter(const std::string& directory, format::SegmentKind kind, const Geometry& geometry,
                uint64_t memoryBytes, bool compress);

  /** One appended IO block, as memory.map wants it. */
  struct Appended {
    uint64_t offset;
    uint32_t bytes;
    uint64_t checksum;
    std::span<const format::IoBlockEntry> entries;  // valid until the next append
  };
  /** Encodes blocks `ids` (1..blocksPerIoBlock of them), whose raw contents follow one another at
   *  `raw`, and writes them as one IO block. Throws Error. */
  Appended append(std::span<const BlockId> ids, const std::byte* raw);
  /** Writes the seal and makes the file durable. Throws Error. */
  void seal();

  /** The segment's row of memory.map; complete once sealed. */
  format::MapSegment description() const;
  uint64_t bytes() const noexcept { return bytes_; }

 private:
  Geometry geometry_;
  format::SegmentKind kind_;
  format::SegmentId id_;
  CheckpointFile file_;
  BlockEncoder encoder_;
  std::vector<std::byte> packed_;  // one IO block; all zeros beyond what the last one used
  std::vector<format::IoBlockEntry> entries_;
  uint64_t bytes_ = 0;
  uint64_t ioBlocks_ = 0;
  uint64_t blocks_ = 0;
};

/** Checks the header and entries of an IO block that starts at ioBlock[0]; nullptr or what is
 * wrong. Does not read bodies. Then every entry's body lies inside header.bytes <= ioBlock.size().
 */
const char* checkIoBlock(std::span<const std::byte> ioBlock, const Geometry& geometry) noexcept;

/** Calls `visit` for each entry of a checked IO block, with the offset of its body. */
template <class Visit>
void forEachEntry(std::span<const std::byte> ioBlock, Visit visit) {
  const auto header = format::take<format::IoBlockHeader>(ioBlock);
  uint64_t body = format::bodiesAt(header.count);
  for (uint32_t i = 0; i < header.count; ++i) {
    const auto entry = format::take<format::IoBlockEntry>(
        ioBlock, sizeof header + i * sizeof(format::IoBlockEntry));
    visit(entry, static_cast<uint32_t>(body));
    body += entry.stored;
  }
}

/** Reads a segment's header. Throws Error(damaged), or Error(unsupported) for another version. */
format::SegmentHeader readSegmentHeader(const CheckpointFile& file);
/** Reads and checks the seal of a file of `bytes` bytes. Throws Error(damaged). */
format::SegmentSeal readSegmentSeal(const CheckpointFile& file, uint64_t bytes);

}  // namespace ckptfs
