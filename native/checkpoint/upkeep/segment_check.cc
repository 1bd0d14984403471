#include "checkpoint/upkeep/segment_check.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "checkpoint/image/block_codec.h"
#include "checkpoint/image/segment.h"

namespace ckptfs {

using namespace format;

namespace {
std::string ioBlockAt(uint64_t offset) {
  return "IO block at byte " + std::to_string(offset) + ": ";
}
}  // namespace

SegmentCheck::SegmentCheck(std::string path, Advance advance, const MemoryMap& map,
                           const IoBlockIndex& blocks, uint32_t index)
    : path_(std::move(path)),
      advance_(std::move(advance)),
      map_(&map),
      blocks_(&blocks),
      index_(index) {
  const auto startOf = [&](uint32_t segment) {
    const auto start =
        std::partition_point(map.ioBlocks.begin(), map.ioBlocks.end(),
                             [&](const MapIoBlock& io) { return io.segment < segment; });
    return static_cast<uint32_t>(start - map.ioBlocks.begin());
  };
  rowsBegin_ = startOf(index);
  rowsEnd_ = startOf(index + 1);
}

std::vector<Damage> SegmentCheck::run(VerifiedSegments* verified) {
  const CheckpointFile file = CheckpointFile::open(path_);
  const FileIdentity identity = file.identity();
  const SegmentHeader header = readSegmentHeader(file);
  geometry_ = {header.pageBytes, header.pagesPerBlock, header.blocksPerIoBlock};
  checkCheckpointable(geometry_, header.memoryBytes);
  memoryBlocks_ = geometry_.blocksIn(header.memoryBytes);
  const SegmentSeal seal = readSegmentSeal(file, identity.bytes);
  end_ = identity.bytes - kAlignment;
  ioBlocks_ = seal.ioBlocks;
  blockEntries_ = seal.blocks;
  if (map_ != nullptr) {
    const MapSegment& row = map_->segments[index_];
    if (row.bytes != identity.bytes || row.kind != header.kind || row.ioBlocks != seal.ioBlocks ||
        std::memcmp(row.id, header.id, sizeof row.id) != 0 || geometry_ != map_->geometry ||
        header.memoryBytes != map_->memoryBytes) {
      report("not the segment that memory.map names");
      return std::move(damages_);
    }
  }
  buffer_ = PageBuffer(maxIoBlockBytes(geometry_));
  if (verified != nullptr && verified->contains(identity)) {
    checkRows(file);
    advance_(identity.bytes);
  } else {
    advance_(2 * kAlignment);
    checkWhole(file);
    if (verified != nullptr && damages_.empty()) verified->add(identity);
  }
  return std::move(damages_);
}

/** Goes through the file from header to seal. */
void SegmentCheck::checkWhole(const CheckpointFile& file) {
  uint32_t row = rowsBegin_;
  // Rows are by offset: those before `at` that were not met lead into the middle of something.
  const auto skipTo = [&](uint64_t at) {
    for (; row < rowsEnd_ && map_->ioBlocks[row].offset < at; ++row)
      report(ioBlockAt(map_->ioBlocks[row].offset) + "memory.map names it, but there is none");
  };
  uint64_t ioBlocks = 0, entries = 0;
  for (uint64_t at = kAlignment; at < end_;) {
    const auto rest = buffer_.first(std::min<uint64_t>(buffer_.size(), end_ - at));
    const std::string where = ioBlockAt(at);
    file.read(at, rest.first(kAlignment));
    const auto io = take<IoBlockHeader>(rest);
    // checkIoBlock() judges the lengths; here they only must not lead out of the buffer.
    const auto ioBlock = rest.first(std::clamp<uint64_t>(io.bytes, kAlignment, rest.size()));
    file.read(at, ioBlock);
    const char* const fault = checkIoBlock(ioBlock, geometry_);
    if (fault != nullptr) return report(where + fault);
    if (io.sequence != ioBlocks) return report(where + "out of sequence");
    if (!checkBodies(where, ioBlock)) return;
    skipTo(at);
    if (row < rowsEnd_ && map_->ioBlocks[row].offset == at) checkRow(row++, where, ioBlock);
    ++ioBlocks;
    entries += io.count;
    at += ioBlock.size();
    advance_(ioBlock.size());
  }
  skipTo(end_);
  if (ioBlocks != ioBlocks_ || entries != blockEntries_) report("IO blocks and seal do not agree");
}

/** Looks at the heads of the IO blocks that the map names, and at nothing else. */
void SegmentCheck::checkRows(const CheckpointFile& file) {
  for (uint32_t row = rowsBegin_; row < rowsEnd_; ++row) {
    const MapIoBlock& io = map_->ioBlocks[row];
    const auto ioBlock = buffer_.first(io.bytes);
    // checkIoBlock() and checkRow() read no bodies.
    file.read(io.offset, ioBlock.first(bodiesAt(io.count)));
    const char* const fault = checkIoBlock(ioBlock, geometry_);
    if (fault != nullptr)
      report(ioBlockAt(io.offset) + fault);
    else
      checkRow(row, ioBlockAt(io.offset), ioBlock);
    advance_(0);
  }
}

/** Reads and decodes every body of a checked IO block; false when something is wrong. */
bool SegmentCheck::checkBodies(const std::string& where, std::span<const std::byte> ioBlock) {
  const PageBuffer raw(geometry_.blockBytes());
  uint64_t end = bodiesAt(take<IoBlockHeader>(ioBlock).count);
  const size_t before = damages_.size();
  forEachEntry(ioBlock, [&](const IoBlockEntry& entry, uint32_t offset) {
    const auto body = ioBlock.subspan(offset, entry.stored);
    const auto wrong = [&](const char* what) {
      report(where + "block " + std::to_string(entry.block) + ": " + what);
    };
    end = offset + uint64_t{entry.stored};
    if (entry.block >= memoryBlocks_) return wrong("no such block");
    if (checksumOf(body) != entry.checksum) return wrong("checksum mismatch");
    if (!decodeBlock(entry.codec, body, raw.span())) return wrong("cannot be decompressed");
  });
  if (!isZero(ioBlock.subspan(end))) report(where + "padding is not zero");
  return damages_.size() == before;
}

/** Whether `row` of the map's IO block table, and every block in it, agrees with the IO block. */
void SegmentCheck::checkRow(uint32_t row, const std::string& where,
                            std::span<const std::byte> ioBlock) {
  const MapIoBlock& io = map_->ioBlocks[row];
  const auto header = take<IoBlockHeader>(ioBlock);
  if (io.checksum != header.checksum || io.bytes != header.bytes || io.count != header.count)
    return report(where + "not the one that memory.map names");
  struct Body {
    IoBlockEntry entry;
    uint32_t offset;
  };
  std::vector<Body> bodies;
  forEachEntry(ioBlock, [&](const IoBlockEntry& entry, uint32_t offset) {
    bodies.push_back({entry, offset});
  });
  for (const BlockId block : blocks_->blocksOf(row)) {
    const MapBlock& mapped = map_->blocks[block];
    const auto body = std::lower_bound(
        bodies.begin(), bodies.end(), mapped.offset,
        [](const Body& candidate, uint32_t offset) { return candidate.offset < offset; });
    const bool agrees = body != bodies.end() && body->offset == mapped.offset &&
                        body->entry.stored == mapped.stored && body->entry.codec == mapped.codec &&
                        body->entry.checksum == mapped.checksum &&
                        ((mapped.flags & kAlias) != 0) == (body->entry.block != block);
    if (!agrees) report(where + "block " + std::to_string(block) + " is not where memory.map says");
  }
}

}  // namespace ckptfs
