// Checkpoints to restore from, with what they must read as, and ways to damage them.
#pragma once

#include <doctest/doctest.h>

#include <cstring>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "checkpoint/image/memory_image.h"
#include "checkpoint/save/saver.h"
#include "guest_threads.h"
#include "temp_directory.h"

namespace ckptfs {

inline const Geometry kDefaultGeometry;
inline const Geometry kLargePages{.pageBytes = 32768, .pagesPerBlock = 4, .blocksPerIoBlock = 3};

/** Makes each third block an alias of the one before it, which has the same contents, and drops
 *  the IO blocks that nothing lies in then. */
inline void makeAliases(const std::string& directory) {
  const std::string path = directory + "/" + MemoryMap::kFileName;
  MemoryMap map = MemoryMap::read(path);
  for (BlockId block = 1; block < map.blocks.size(); block += 3) {
    if (map.blocks[block].codec == format::Codec::zero) continue;
    map.blocks[block] = map.blocks[block - 1];
    map.blocks[block].flags = format::kAlias;
  }
  std::vector<uint32_t> places(map.ioBlocks.size(), format::kNoIoBlock);
  for (const format::MapBlock& row : map.blocks)
    if (row.codec != format::Codec::zero) places[row.ioBlock] = 0;
  std::vector<format::MapIoBlock> used;
  for (uint32_t i = 0; i < places.size(); ++i) {
    if (places[i] == format::kNoIoBlock) continue;
    places[i] = static_cast<uint32_t>(used.size());
    used.push_back(map.ioBlocks[i]);
  }
  map.ioBlocks = used;
  for (format::MapBlock& row : map.blocks)
    if (row.codec != format::Codec::zero) row.ioBlock = places[row.ioBlock];
  const std::vector<std::byte> bytes = map.encode();
  std::ofstream(path, std::ios::binary | std::ios::trunc)
      .write(reinterpret_cast<const char*>(bytes.data()),
             static_cast<std::streamsize>(bytes.size()));
}

inline void save(GuestMemory& memory, const SaveOptions& options) {
  Saver saver(memory, options);
  saver.arm();
  saver.start();
  saver.wait();
}

/** A checkpoint of filled memory, some of it in the hot segment, and what it must read as. */
struct Saved {
  Saved(const Geometry& geometry, uint64_t bytes, format::Codec codec, bool aliases = false) {
    GuestMemory memory(bytes, geometry);
    fillMemory(memory, 11);
    if (aliases)
      for (BlockId block = 1; block < memory.blockCount(); block += 3)
        std::memcpy(memory.hostView() + geometry.offsetOf(block),
                    memory.hostView() + geometry.offsetOf(block - 1), geometry.blockBytes());
    contents = copyOf(memory);
    Saver saver(memory, {directory.path(), codec, 1});
    saver.arm();
    onVcpu([&] {
      std::mt19937_64 random(5);
      for (uint64_t i = 0; i < memory.blockCount() / 3; ++i)
        guestStore(memory, random() % (bytes / 8) * 8, random());
    });
    saver.start();
    saver.wait();
    if (aliases) makeAliases(directory.path());
  }
  const TempDirectory directory;
  std::vector<std::byte> contents;
};

inline bool equals(const GuestMemory& memory, const std::vector<std::byte>& contents) {
  return std::memcmp(memory.hostView(), contents.data(), contents.size()) == 0;
}

/** Some block with a body of its own in a segment of this kind. */
inline BlockId blockIn(const MemoryImage& image, format::SegmentKind kind) {
  const MemoryMap& map = image.map();
  for (BlockId block = 0; block < map.blocks.size(); ++block)
    if (map.blocks[block].codec != format::Codec::zero &&
        map.segments[map.ioBlocks[map.blocks[block].ioBlock].segment].kind == kind)
      return block;
  FAIL("no such block");
  return 0;
}

/** Inverts a byte of a block's body in its segment file, until destroyed. */
class Damaged {
 public:
  Damaged(const TempDirectory& directory, const MemoryImage& image, BlockId block) {
    const format::MapBlock& row = image.map().blocks[block];
    const format::MapIoBlock& io = image.map().ioBlocks[row.ioBlock];
    path_ = directory.path() + "/" + image.map().segmentName(io.segment);
    at_ = static_cast<std::streamoff>(io.offset + row.offset + row.stored / 2);
    flip();
  }
  ~Damaged() { flip(); }
  Damaged(const Damaged&) = delete;
  Damaged& operator=(const Damaged&) = delete;

 private:
  void flip() {
    std::fstream file(path_, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(at_);
    const auto byte = static_cast<char>(~file.get());
    file.seekp(at_);
    file.put(byte);
  }
  std::string path_;
  std::streamoff at_ = 0;
};

}  // namespace ckptfs
