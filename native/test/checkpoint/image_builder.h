// Writes checkpoint directories of given contents, full or on a base, without a guest.
#pragma once

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <map>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/image/checkpoint_file.h"
#include "checkpoint/image/io_block_packer.h"
#include "checkpoint/image/memory_image.h"
#include "checkpoint/image/memory_map.h"
#include "checkpoint/image/segment.h"

namespace ckptfs {

using Contents = std::vector<std::byte>;

/** What a block of test memory may hold. */
enum class Filling : uint8_t { zeros, pattern, noise };

inline void fillBlock(Contents& memory, const Geometry& geometry, BlockId block, Filling filling,
                      uint64_t seed) {
  std::mt19937_64 random(seed);
  std::byte* const at = memory.data() + geometry.offsetOf(block);
  for (uint64_t i = 0; i < geometry.blockBytes(); i += 8) {
    const uint64_t word = filling == Filling::zeros     ? 0
                          : filling == Filling::pattern ? seed * 1000 + i / 256
                                                        : random();
    std::memcpy(at + i, &word, sizeof word);
  }
}

/** Memory with blocks of every filling; some of them are equal. */
inline Contents someContents(const Geometry& geometry, uint64_t blocks, uint64_t seed) {
  Contents memory(blocks * geometry.blockBytes());
  std::mt19937_64 random(seed);
  for (BlockId block = 0; block < blocks; ++block)
    fillBlock(memory, geometry, block, static_cast<Filling>(random() % 3), random() % (blocks * 2));
  return memory;
}

struct ImageOptions {
  Geometry geometry;
  format::Codec codec = format::Codec::lz4;
  std::string base = {};  // directory of the checkpoint that unchanged blocks are taken from
  bool aliases = true;    // blocks with the same contents share a body
};

/** One checkpoint being written: blocks go to the hot and to the cold segment in turns. */
class ImageBuilder {
 public:
  ImageBuilder(const std::string& directory, const Contents& memory, const ImageOptions& options)
      : directory_(directory), memory_(memory), options_(options) {
    map_.geometry = options.geometry;
    map_.memoryBytes = memory.size();
    map_.blocks.resize(options.geometry.blocksIn(memory.size()));
    for (Part& part : parts_) part.ioBlocks.reserve(map_.blocks.size());
  }

  void write() {
    if (!options_.base.empty()) base_.emplace(options_.base);
    for (BlockId block = 0; block < map_.blocks.size(); ++block) save(block);
    for (Part& part : parts_) flush(part);
    assemble();
    const std::vector<std::byte> bytes = map_.encode();
    CheckpointFile::create(directory_ + "/" + MemoryMap::kFileName)
        .write(0, std::span<const std::byte>(bytes));
  }

 private:
  struct Part {
    explicit Part(ImageBuilder& b, format::SegmentKind kind)
        : writer(b.directory_, kind, b.options_.geometry, b.memory_.size()),
          packer(b.options_.geometry, b.options_.codec) {}
    SegmentWriter writer;
    IoBlockPacker packer;
    std::vector<format::MapIoBlock> ioBlocks;
  };
  /** A block's row before the tables are put together: the place by segment and IO block. */
  struct Place {
    int part = -1;         // 0 hot, 1 cold, -1 of the base
    uint32_t ioBlock = 0;  // of the part or of the base's map
  };

  std::string_view raw(BlockId block) const {
    const uint64_t bytes = options_.geometry.blockBytes();
    return {reinterpret_cast<const char*>(memory_.data()) + block * bytes, bytes};
  }

  void save(BlockId block) {
    format::MapBlock& row = map_.blocks[block];
    places_.resize(map_.blocks.size());
    const auto bytes = std::as_bytes(std::span(raw(block)));
    if (format::isZero(bytes)) {
      row = {format::kNoIoBlock, 0, 0, format::Codec::zero, 0, {}, 0};
      return;
    }
    if (base_) {
      Contents before(bytes.size());
      base_->read(options_.geometry.offsetOf(block), before);
      if (std::equal(before.begin(), before.end(), bytes.begin())) {
        row = base_->map().blocks[block];
        places_[block] = {-1, row.ioBlock};
        return;
      }
    }
    const auto same = saved_.find(raw(block));
    if (options_.aliases && same != saved_.end()) {
      aliases_.emplace_back(block, same->second);
      return;
    }
    saved_.emplace(raw(block), block);
    Part& part = parts_[block / 5 % 2];
    part.packer.add(block, bytes.data(), format::checksumOf(bytes));
    if (part.packer.full()) flush(part);
  }

  void flush(Part& part) {
    if (part.packer.empty()) return;
    const uint64_t offset = part.writer.append(part.packer);
    uint64_t body = format::bodiesAt(part.packer.entries().size());
    for (const format::IoBlockEntry& entry : part.packer.entries()) {
      map_.blocks[entry.block] = {
          0, static_cast<uint32_t>(body), entry.stored, entry.codec, 0, {}, entry.checksum};
      places_[entry.block] = {static_cast<int>(&part - parts_),
                              static_cast<uint32_t>(part.ioBlocks.size())};
      body += entry.stored;
    }
    part.ioBlocks.push_back({0, static_cast<uint32_t>(part.packer.entries().size()), offset,
                             part.packer.bytes(), 0, part.packer.checksum()});
    part.packer.clear();
  }

  void assemble() {
    for (const auto& [block, same] : aliases_) {
      map_.blocks[block] = map_.blocks[same];
      map_.blocks[block].flags = format::kAlias;
      places_[block] = places_[same];
    }
    // New IO blocks first, then those of the base that are still referred to.
    uint32_t starts[2] = {};
    for (int i = 0; i < 2; ++i) {
      Part& part = parts_[i];
      part.writer.seal();
      starts[i] = static_cast<uint32_t>(map_.ioBlocks.size());
      if (part.ioBlocks.empty()) {
        std::filesystem::remove(part.writer.file().path());
        continue;
      }
      const auto segment = static_cast<uint32_t>(map_.segments.size());
      map_.segments.push_back(part.writer.description());
      for (format::MapIoBlock& io : part.ioBlocks) {
        io.segment = segment;
        map_.ioBlocks.push_back(io);
      }
    }
    std::map<uint32_t, uint32_t> kept;  // the base's IO block → ours
    for (BlockId block = 0; block < map_.blocks.size(); ++block)
      if (map_.blocks[block].codec != format::Codec::zero && places_[block].part < 0)
        kept.emplace(places_[block].ioBlock, 0);
    std::map<uint32_t, uint32_t> segments;  // likewise
    for (auto& [from, to] : kept) {
      format::MapIoBlock io = base_->map().ioBlocks[from];
      const auto [at, isNew] =
          segments.emplace(io.segment, static_cast<uint32_t>(map_.segments.size()));
      if (isNew) {
        map_.segments.push_back(base_->map().segments[io.segment]);
        const std::string name = base_->map().segmentName(io.segment);
        std::filesystem::create_hard_link(options_.base + "/" + name, directory_ + "/" + name);
      }
      io.segment = at->second;
      to = static_cast<uint32_t>(map_.ioBlocks.size());
      map_.ioBlocks.push_back(io);
    }
    for (BlockId block = 0; block < map_.blocks.size(); ++block) {
      const Place& place = places_[block];
      if (map_.blocks[block].codec != format::Codec::zero)
        map_.blocks[block].ioBlock =
            place.part < 0 ? kept.at(place.ioBlock) : starts[place.part] + place.ioBlock;
    }
  }

  const std::string directory_;
  const Contents& memory_;
  const ImageOptions options_;
  std::optional<MemoryImage> base_;
  Part parts_[2] = {Part(*this, format::SegmentKind::hot), Part(*this, format::SegmentKind::cold)};
  MemoryMap map_;
  std::vector<Place> places_;
  std::map<std::string_view, BlockId> saved_;
  std::vector<std::pair<BlockId, BlockId>> aliases_;  // block → the one whose body it shares
};

/** Writes `memory` as a checkpoint into `directory`, which exists. */
inline void writeImage(const std::string& directory, const Contents& memory,
                       const ImageOptions& options) {
  ImageBuilder(directory, memory, options).write();
}

/** All of the memory that a checkpoint directory holds. */
inline Contents readImage(const std::string& directory) {
  const MemoryImage image(directory);
  Contents memory(image.bytes());
  image.read(0, memory);
  return memory;
}

}  // namespace ckptfs
