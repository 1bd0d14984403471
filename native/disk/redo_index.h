// Which blocks a redo log holds, and where: the memory of everything its records say.
//
// It grows with what is written, not with the disk: locations lie in chunks of 64 blocks that exist
// only where there is data (16 bytes a block, 256 KiB of disk a KiB), and zeroed ranges are
// extents, so that discarding a whole disk costs one. Not synchronised: RedoLog guards it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <vector>

namespace ckptfs {

/** Where the current data of a block lies in its log, and the xxh3-64 of it. */
struct BlockLocation {
  uint64_t offset = 0;
  uint64_t checksum = 0;
  bool operator==(const BlockLocation&) const = default;
};

/** A block with its location, as an index record stores it (24 bytes). */
struct IndexEntry {
  uint64_t block = 0;
  uint64_t offset = 0;
  uint64_t checksum = 0;
  bool operator==(const IndexEntry&) const = default;
};

/** A range of blocks that reads as zeros, as an index record stores it (16 bytes). */
struct ZeroExtent {
  uint64_t first = 0;
  uint64_t count = 0;
  bool operator==(const ZeroExtent&) const = default;
};

class RedoIndex {
 public:
  enum class Kind : uint8_t { absent, zeroes, data };
  struct Run {
    Kind kind;
    uint64_t count;
  };
  /** The most locations that one find returns. */
  static constexpr uint64_t kRunBlocks = 64;
  using Locations = std::array<BlockLocation, kRunBlocks>;

  /** The longest run of one kind at `first`, of at most `count` blocks (kRunBlocks of data). */
  Run find(uint64_t first, uint64_t count, Locations& locations) const;
  /** Blocks from `first` now lie one after another from `offset`, one for each checksum. */
  void put(uint64_t first, uint64_t offset, uint32_t blockBytes,
           std::span<const uint64_t> checksums);
  /** The range now reads as zeros. */
  void zero(uint64_t first, uint64_t count);

  /** Everything, ascending. A block of an entry is data even where an extent covers it. */
  std::vector<IndexEntry> entries() const;
  std::vector<ZeroExtent> extents() const;
  uint64_t dataBlocks() const noexcept { return dataBlocks_; }
  bool operator==(const RedoIndex&) const = default;

 private:
  static constexpr uint64_t kChunkBlocks = 64;  // one bit each in `present`

  struct Chunk {
    uint64_t present = 0;
    std::array<BlockLocation, kChunkBlocks> at;
    bool operator==(const Chunk&) const = default;
  };

  /** The first data block in [first, end), else end. */
  uint64_t nextData(uint64_t first, uint64_t end) const;

  std::map<uint64_t, Chunk> chunks_;     // by block / kChunkBlocks; none is empty
  std::map<uint64_t, uint64_t> zeroes_;  // first → end, apart from each other; data may lie within
  uint64_t dataBlocks_ = 0;
};

}  // namespace ckptfs
