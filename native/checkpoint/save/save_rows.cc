#include "checkpoint/save/save_rows.h"

#include "base/error.h"

namespace ckptfs {

using namespace format;

SaveRows::SaveRows(const Geometry& geometry, uint64_t memoryBytes)
    : traced_(geometry.blocksIn(memoryBytes)),
      complete_(std::make_unique<std::atomic<bool>[]>(traced_.size())) {
  map_.memoryBytes = memoryBytes;
  map_.geometry = geometry;
  map_.blocks.assign(traced_.size(), kZeroRow);
}

void SaveRows::written(SegmentKind segment, uint64_t offset, const IoBlockPacker& ioBlock) {
  uint32_t index = 0;
  {
    const std::lock_guard lock(lock_);
    index = static_cast<uint32_t>(map_.ioBlocks.size());
    map_.ioBlocks.push_back({static_cast<uint32_t>(segment),
                             static_cast<uint32_t>(ioBlock.entries().size()), offset,
                             ioBlock.bytes(), 0, ioBlock.checksum()});
  }
  uint64_t body = bodiesAt(ioBlock.entries().size());
  for (const IoBlockEntry& entry : ioBlock.entries()) {
    put(entry.block,
        {index, static_cast<uint32_t>(body), entry.stored, entry.codec, 0, {}, entry.checksum});
    body += entry.stored;
  }
}

bool SaveRows::alias(BlockId block, BlockId original) noexcept {
  if (!complete(original)) return false;
  MapBlock row = map_.blocks[original];
  row.flags |= kAlias;
  put(block, row);
  return true;
}

SaveRows::Place SaveRows::place(BlockId block) const {
  const MapBlock& row = map_.blocks[block];
  if (row.codec == Codec::zero) return {SegmentKind::hot, 0, row};
  const std::lock_guard lock(lock_);
  const MapIoBlock& io = map_.ioBlocks[row.ioBlock];
  return {static_cast<SegmentKind>(io.segment), io.offset + row.offset, row};
}

/** Takes over the rows of blocks that were not to be saved, with the IO blocks and segments that
 *  they lie in. */
void SaveRows::referTo(const MemoryMap& base, MemoryMap& map) const {
  std::vector<uint32_t> places(base.ioBlocks.size(), kNoIoBlock);
  std::vector<bool> named(base.segments.size());
  for (BlockId block = 0; block < traced_.size(); ++block) {
    if (traced(block) || base.blocks[block].codec == Codec::zero) continue;
    places[base.blocks[block].ioBlock] = 0;
    named[base.ioBlocks[base.blocks[block].ioBlock].segment] = true;
  }
  std::vector<uint32_t> segments(base.segments.size());
  for (size_t i = 0; i < named.size(); ++i) {
    if (!named[i]) continue;
    segments[i] = static_cast<uint32_t>(map.segments.size());
    map.segments.push_back(base.segments[i]);
  }
  for (size_t i = 0; i < places.size(); ++i) {
    if (places[i] == kNoIoBlock) continue;
    places[i] = static_cast<uint32_t>(map.ioBlocks.size());
    map.ioBlocks.push_back(base.ioBlocks[i]);
    map.ioBlocks.back().segment = segments[base.ioBlocks[i].segment];
  }
  for (BlockId block = 0; block < traced_.size(); ++block) {
    if (traced(block)) continue;
    MapBlock& row = map.blocks[block] = base.blocks[block];
    if (row.codec != Codec::zero) row.ioBlock = places[row.ioBlock];
  }
}

MemoryMap SaveRows::finish(const MapSegment& hot, const MapSegment& cold,
                           const MemoryMap* base) const {
  for (BlockId block = 0; block < traced_.size(); ++block)
    if (traced(block) ? !complete(block) : base == nullptr)
      throw Error(Code::io, "memory block " + std::to_string(block) + " was not saved");
  MemoryMap map = map_;  // a copy: place() goes on
  uint32_t segments[2] = {};
  for (const MapSegment& segment : {hot, cold}) {
    if (segment.ioBlocks == 0) continue;
    segments[static_cast<uint32_t>(segment.kind)] = static_cast<uint32_t>(map.segments.size());
    map.segments.push_back(segment);
  }
  for (MapIoBlock& io : map.ioBlocks) io.segment = segments[io.segment];
  if (base != nullptr) referTo(*base, map);
  if (map.segments.size() > kMaxSegments)
    throw Error(Code::usage, "the checkpoint would refer to more than " +
                                 std::to_string(kMaxSegments) +
                                 " segments; take a full one instead of an incremental one");
  map.sortIoBlocks();
  return map;
}

}  // namespace ckptfs
