// Decoded basic blocks of one hart, found by where their code lies in RAM.
//
// Owned by the hart's thread. Keyed by RAM offset, so that translations may change freely. A block
// never crosses a 4 KiB page. fence.i costs one increment: a block remembers the epoch in which its
// bytes were last compared with memory, and is compared again when it is next entered in another.
//
// Blocks are bump-allocated in an arena of fixed size and freed all at once when it is full. So a
// pointer to a block is good until `generation` changes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "cpu/rv64/decode.h"
#include "cpu/rv64/mmu.h"

namespace ckptfs::rv64 {

/** One operation ready to run. 16 bytes, so that four fill a cache line. */
struct DecodedOp {
  const void* handler;
  uint8_t rd;
  uint8_t rs1;
  uint8_t rs2;
  uint8_t length;  // of the instruction in bytes; 0 for Op::Next
  int32_t imm;     // branches and auipc: relative to the block's start
};
static_assert(sizeof(DecodedOp) == 16);

/** Header of a block; its operations and then its raw instruction bytes follow in the arena. */
struct alignas(16) Block {
  uint64_t offset;  // of the first byte in RAM
  uint64_t epoch;   // in which the bytes were last seen unchanged; 0: dead
  Block* hashNext;
  Block* taken;  // successors in the same page, or nullptr
  Block* following;
  uint16_t count;    // instructions
  uint16_t bytes;    // of instructions
  uint16_t opCount;  // count, and one for Op::Next where no instruction ends the block
  DecodedOp* ops() noexcept { return reinterpret_cast<DecodedOp*>(this + 1); }
  uint8_t* raw() noexcept { return reinterpret_cast<uint8_t*>(ops() + opCount); }
  uint32_t rawAt(unsigned byte) noexcept;
};

class BlockCache {
 public:
  static constexpr unsigned kMaxCount = 64;          // bounds the latency of an interrupt
  static constexpr uint64_t kArenaBytes = 10 << 20;  // with the buckets and TLBs: under 12 MiB
  static constexpr unsigned kBuckets = 1 << 15;

  /** `handlers` maps Op to the interpreter's handler address. */
  BlockCache(const Ram& ram, const void* const* handlers);
  ~BlockCache();
  BlockCache(const BlockCache&) = delete;
  BlockCache& operator=(const BlockCache&) = delete;

  /** The valid block at a RAM offset, from the table or decoded now. nullptr: the first instruction
   *  reaches into the next page; decode it with `straddling`. */
  Block* at(uint64_t offset) noexcept {
    Block* block = buckets_[bucketOf(offset)];
    if (block != nullptr && block->offset == offset && block->epoch == epoch) return block;
    return search(offset);
  }
  /** A block of the one instruction whose halves lie at these RAM offsets; good until the next
   * call. */
  Block* straddling(uint64_t low, uint64_t high) noexcept;

  /** fence.i of this hart. */
  void fence() noexcept { ++epoch; }
  void clear() noexcept;

  uint64_t epoch = 1;
  uint64_t generation = 0;  // increments whenever all blocks are freed

 private:
  static unsigned bucketOf(uint64_t offset) noexcept {
    return unsigned(offset >> 1 ^ offset >> 14) % kBuckets;
  }
  Block* search(uint64_t offset) noexcept;
  Block* build(uint64_t offset) noexcept;
  void finish(Block* block, const Instruction* instructions, const uint32_t* raw) noexcept;
  uint16_t halfAt(uint64_t offset) const noexcept;
  bool unchanged(Block* block) const noexcept;

  const Ram ram_;
  const void* const* handlers_;
  std::byte* arena_;
  uint64_t used_ = 0;
  std::vector<Block*> buckets_;
  alignas(16) std::byte scratch_[sizeof(Block) + 2 * sizeof(DecodedOp) + kMaxInstructionBytes];
};

}  // namespace ckptfs::rv64
