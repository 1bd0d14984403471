// Segments: append-only files of IO blocks (the checkpoint's hot and cold parts, requirement B5).
//
// Several threads may append to a segment at once: its place in the file is reserved under a lock,
// the bytes are written outside it. Once sealed a segment never changes. A segment can be checked
// by itself; memory.map adds where the contents of each block are.
#pragma once

#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/image/checkpoint_file.h"
#include "checkpoint/image/format.h"
#include "checkpoint/image/io_block_packer.h"

namespace ckptfs {

class SegmentWriter {
 public:
  /** Creates the file in `directory`, named after a new random id, and writes the header. Throws
   *  Error. */
  SegmentWriter(const std::string& directory, format::SegmentKind kind, const Geometry& geometry,
                uint64_t memoryBytes);

  /** Writes an IO block that is not empty, and returns its offset. Any thread. Throws Error. */
  uint64_t append(IoBlockPacker& ioBlock);
  /** After all appends: writes the seal and makes the file durable. Throws Error. */
  void seal();

  /** The segment's row of memory.map; complete once sealed. */
  format::MapSegment description() const;
  const CheckpointFile& file() const noexcept { return file_; }
  // After all appends.
  uint64_t bytes() const noexcept { return bytes_; }
  uint64_t ioBlocks() const noexcept { return ioBlocks_; }

 private:
  format::SegmentKind kind_;
  format::SegmentId id_;
  CheckpointFile file_;
  std::mutex lock_;  // guards the rest
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
