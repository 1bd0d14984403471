// memory.map in the making: the rows of a save, filled in by many threads while it goes on.
//
// A block's row is written once, by whoever saves it, and is complete from then on. Rows of blocks
// that the save need not save are those of the base checkpoint (requirement F4).
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <span>

#include "checkpoint/image/io_block_packer.h"
#include "checkpoint/image/memory_map.h"

namespace ckptfs {

class SaveRows {
 public:
  SaveRows(const Geometry& geometry, uint64_t memoryBytes);

  /** One byte per block, as of GuestMemory::armWrite(): 1 for those to be saved. Constant from then
   * on. */
  std::span<uint8_t> traced() noexcept { return traced_; }
  bool traced(BlockId block) const noexcept { return traced_[block] != 0; }

  /** The block is all zeros. For fault paths. */
  void zero(BlockId block) noexcept { put(block, kZeroRow); }
  /** An IO block stands at `offset` of the segment with this kind. Throws std::bad_alloc. */
  void written(format::SegmentKind segment, uint64_t offset, const IoBlockPacker& ioBlock);
  /** Shares the body of `original`; false if that has none yet. */
  bool alias(BlockId block, BlockId original) noexcept;

  bool complete(BlockId block) const noexcept {
    return complete_[block].load(std::memory_order_acquire);
  }
  struct Place {
    format::SegmentKind segment;
    uint64_t offset;  // of the body, in the segment
    format::MapBlock row;
  };
  /** Where a complete row's body is, of a block that was to be saved; its row alone for codec zero.
   */
  Place place(BlockId block) const;

  /** The whole map, after the last row: of segments written now those that hold anything, and what
   *  is referred to of `base`. Throws Error if a row is missing, or there are too many segments. */
  MemoryMap finish(const format::MapSegment& hot, const format::MapSegment& cold,
                   const MemoryMap* base) const;

 private:
  static constexpr format::MapBlock kZeroRow = {
      format::kNoIoBlock, 0, 0, format::Codec::zero, 0, {}, 0};
  void put(BlockId block, const format::MapBlock& row) noexcept {
    map_.blocks[block] = row;
    complete_[block].store(true, std::memory_order_release);
  }
  void referTo(const MemoryMap& base, MemoryMap& map) const;

  std::vector<uint8_t> traced_;
  std::unique_ptr<std::atomic<bool>[]> complete_;
  mutable std::mutex lock_;  // guards map_.ioBlocks
  MemoryMap map_;            // without segments: an IO block's is its SegmentKind
};

}  // namespace ckptfs
