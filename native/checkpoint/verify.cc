#include "checkpoint/verify.h"

#include <algorithm>
#include <filesystem>
#include <optional>
#include <unordered_map>

#include "base/error.h"
#include "checkpoint/checkpoint_file.h"
#include "checkpoint/io_block_index.h"
#include "checkpoint/memory_map.h"
#include "checkpoint/segment.h"

namespace ckptfs {

using namespace format;

namespace {

class Verifier {
 public:
  Verifier(std::string directory, const std::function<void(uint64_t)>& onProgress)
      : directory_(std::move(directory)), onProgress_(onProgress) {}

  std::vector<Damage> run() {
    const std::string path = directory_ + "/" + MemoryMap::kFileName;
    guarded(path, [&] {
      map_ = MemoryMap::read(path);
      index_.emplace(*map_);
      found_.assign(map_->blocks.size(), false);
      advance(map_->encode().size());
    });
    if (!map_) {
      guarded(directory_, [&] { strayFiles(); });
      return std::move(damages_);
    }
    for (uint32_t i = 0; i < map_->segments.size(); ++i) {
      const std::string file = directory_ + "/" + map_->segmentName(i);
      guarded(file, [&] { segment(file, i); });
    }
    if (damages_.empty()) missingBlocks(path);
    return std::move(damages_);
  }

 private:
  /** Runs one step and turns what it throws into a report. */
  template <class Step>
  void guarded(const std::string& file, Step step) {
    try {
      step();
    } catch (const std::exception& error) {
      // Messages begin with the path, which the report has already.
      std::string what = error.what();
      if (what.starts_with(file + ": ")) what.erase(0, file.size() + 2);
      report(file, what);
    }
  }

  void report(const std::string& file, const std::string& what) {
    if (damages_.size() < kMaxDamages - 1)
      damages_.push_back({file, what});
    else if (damages_.size() == kMaxDamages - 1)
      damages_.push_back({directory_, "more damage than is listed here"});
  }

  void advance(uint64_t bytes) {
    bytesRead_ += bytes;
    if (onProgress_) onProgress_(bytesRead_);
  }

  /** Without a map, segments are still checked by themselves. */
  void strayFiles() {
    for (const auto& entry : std::filesystem::directory_iterator(directory_)) {
      const std::string extension = entry.path().extension();
      if (extension != ".hot" && extension != ".cold") continue;
      const std::string file = entry.path();
      guarded(file, [&] { segment(file, std::nullopt); });
    }
  }

  void segment(const std::string& path, std::optional<uint32_t> index) {
    const CheckpointFile file = CheckpointFile::open(path);
    const uint64_t bytes = file.bytes();
    const SegmentHeader header = readSegmentHeader(file);
    const Geometry geometry{header.pageBytes, header.pagesPerBlock, header.blocksPerIoBlock};
    checkCheckpointable(geometry, header.memoryBytes);
    const SegmentSeal seal = readSegmentSeal(file, bytes);
    advance(2 * kAlignment);
    std::unordered_map<uint64_t, uint32_t> mapped;  // offset → row of the map
    if (index) {
      const MapSegment& row = map_->segments[*index];
      if (row.bytes != bytes || row.kind != header.kind || row.ioBlocks != seal.ioBlocks ||
          std::memcmp(row.id, header.id, sizeof row.id) != 0 || geometry != map_->geometry ||
          header.memoryBytes != map_->memoryBytes)
        return report(path, "not the segment that memory.map names");
      for (uint32_t io = 0; io < map_->ioBlocks.size(); ++io)
        if (map_->ioBlocks[io].segment == *index) mapped.emplace(map_->ioBlocks[io].offset, io);
    }

    std::vector<std::byte> buffer(maxIoBlockBytes(geometry));
    const uint64_t end = bytes - kAlignment;
    uint64_t ioBlocks = 0, blocks = 0;
    for (uint64_t at = kAlignment; at < end;) {
      const auto bytesHere = std::span(buffer).first(std::min<uint64_t>(buffer.size(), end - at));
      const std::string where = "IO block at byte " + std::to_string(at) + ": ";
      file.read(at, bytesHere.first(kAlignment));
      const auto io = take<IoBlockHeader>(bytesHere);
      // checkIoBlock() judges the lengths; here they only must not lead out of the buffer.
      const uint64_t length = std::clamp<uint64_t>(io.bytes, kAlignment, bytesHere.size());
      file.read(at, bytesHere.first(length));
      const char* const fault = checkIoBlock(bytesHere.first(length), geometry);
      if (fault != nullptr) return report(path, where + fault);
      if (io.sequence != ioBlocks) return report(path, where + "out of sequence");
      const auto row = mapped.find(at);
      checkBodies(path, where, bytesHere.first(length), geometry, header.memoryBytes,
                  row == mapped.end() ? kNoIoBlock : row->second);
      ++ioBlocks;
      blocks += io.count;
      at += length;
      advance(length);
    }
    if (ioBlocks != seal.ioBlocks || blocks != seal.blocks)
      report(path, "IO blocks and seal do not agree");
  }

  void checkBodies(const std::string& path, const std::string& where,
                   std::span<const std::byte> ioBlock, const Geometry& geometry,
                   uint64_t memoryBytes, uint32_t mapped) {
    std::vector<std::byte> raw(geometry.blockBytes());
    const auto io = take<IoBlockHeader>(ioBlock);
    if (mapped != kNoIoBlock) {
      const MapIoBlock& row = map_->ioBlocks[mapped];
      if (row.checksum != io.checksum || row.bytes != io.bytes || row.count != io.count)
        report(path, where + "not the one that memory.map names");
    }
    uint64_t end = bodiesAt(io.count);
    forEachEntry(ioBlock, [&](const IoBlockEntry& entry, uint32_t offset) {
      const auto body = ioBlock.subspan(offset, entry.stored);
      end = offset + entry.stored;
      const std::string block = "block " + std::to_string(entry.block) + ": ";
      if (entry.block >= geometry.blocksIn(memoryBytes))
        return report(path, where + block + "no such block");
      if (checksumOf(body) != entry.checksum)
        return report(path, where + block + "checksum mismatch");
      if (!decodeBlock(entry.codec, body, raw))
        return report(path, where + block + "cannot be decompressed");
      if (mapped == kNoIoBlock) return;
      for (const BlockId id : index_->blocksOf(mapped)) {
        const MapBlock& row = map_->blocks[id];
        found_[id] = found_[id] || (row.offset == offset && row.stored == entry.stored &&
                                    row.codec == entry.codec && row.checksum == entry.checksum &&
                                    ((row.flags & kAlias) != 0) == (entry.block != id));
      }
    });
    if (!isZero(ioBlock.subspan(end))) report(path, where + "padding is not zero");
  }

  /** Every row of the map must have met its entry. */
  void missingBlocks(const std::string& path) {
    for (BlockId block = 0; block < map_->blocks.size(); ++block)
      if (map_->blocks[block].codec != Codec::zero && !found_[block])
        report(path, "block " + std::to_string(block) + " is not where the map says");
  }

  const std::string directory_;
  const std::function<void(uint64_t)>& onProgress_;
  std::optional<MemoryMap> map_;
  std::optional<IoBlockIndex> index_;
  std::vector<bool> found_;  // per block: an entry agrees with the map's row
  std::vector<Damage> damages_;
  uint64_t bytesRead_ = 0;
};

}  // namespace

std::vector<Damage> verifyMemoryImage(const std::string& directory,
                                      const std::function<void(uint64_t)>& onProgress) {
  return Verifier(directory, onProgress).run();
}

}  // namespace ckptfs
