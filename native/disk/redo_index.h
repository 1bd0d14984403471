// Which blocks a redo log that is being written holds, and where: the memory of everything its
// records say. A sealed log has a SealedIndex.
//
// It grows with what is written, not with the disk: entries of 24 bytes lie in ascending leaves of
// up to 256 (some 35 bytes a block of 4 KiB written at random, 24 in order: 6 to 9 MiB a GiB), and
// zeroed ranges are extents, so that discarding a whole disk costs one. Not synchronised: RedoLog
// guards it.
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
  uint64_t offset;
  uint64_t checksum;
  uint16_t log;  // which one, where an index is of several (SealedIndex)
  bool operator==(const BlockLocation&) const = default;
};

/** A block with its location, as an index record stores it (24 bytes). */
struct IndexEntry {
  uint64_t block;
  uint64_t offset;
  uint64_t checksum;
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

 private:
  using Leaf = std::vector<IndexEntry>;  // ascending, not empty, at most kLeafEntries
  // By a block that is not above the leaf's first and above all of the leaf before.
  using Leaves = std::map<uint64_t, Leaf>;
  static constexpr size_t kLeafEntries = 256;
  /** A place among the entries, or the end. */
  struct Cursor {
    Leaves::const_iterator leaf;
    size_t at = 0;
  };

  /** The first entry at `block` or after it. */
  Cursor seek(uint64_t block) const;
  void next(Cursor& cursor) const;
  /** The leaf that `block` belongs to; makes one where there is none. */
  Leaves::iterator leafOf(uint64_t block);
  /** Makes room in a full leaf. */
  void split(Leaves::iterator leaf);

  Leaves leaves_;
  std::map<uint64_t, uint64_t> zeroes_;  // first → end, apart from each other; data may lie within
  uint64_t dataBlocks_ = 0;
};

}  // namespace ckptfs
