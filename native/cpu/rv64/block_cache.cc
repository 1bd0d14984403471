#include "cpu/rv64/block_cache.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/error.h"

namespace ckptfs::rv64 {
namespace {

/** Room of a block's header, operations and raw bytes, in arena units. */
constexpr uint64_t roomFor(unsigned opCount, unsigned bytes) {
  return (sizeof(Block) + opCount * sizeof(DecodedOp) + bytes + 15) & ~uint64_t{15};
}

}  // namespace

uint32_t Block::rawAt(unsigned byte) noexcept {
  const uint8_t* from = raw() + byte;
  uint16_t low, high = 0;
  std::memcpy(&low, from, 2);
  if (lengthOf(low) == 4) std::memcpy(&high, from + 2, 2);
  return low | uint32_t(high) << 16;
}

BlockCache::BlockCache(const Ram& ram, const void* const* handlers)
    : ram_(ram), handlers_(handlers), buckets_(kBuckets) {
  void* arena = mmap(nullptr, kArenaBytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (arena == MAP_FAILED) throwErrno(errno, "allocating the block cache of a vCPU");
  arena_ = static_cast<std::byte*>(arena);
}

BlockCache::~BlockCache() {
  munmap(arena_, kArenaBytes);
}

void BlockCache::clear() noexcept {
  used_ = 0;
  std::fill(buckets_.begin(), buckets_.end(), nullptr);
  ++generation;
}

uint16_t BlockCache::halfAt(uint64_t offset) const noexcept {
  return __atomic_load_n(reinterpret_cast<const uint16_t*>(ram_.view + offset), __ATOMIC_RELAXED);
}

/** Compares the raw bytes with memory: words of 8 where aligned, since fence.i is frequent. */
bool BlockCache::unchanged(Block* block) const noexcept {
  const uint8_t* raw = block->raw();
  uint64_t at = block->offset;
  const uint64_t end = at + block->bytes;
  while (at < end) {
    if (at % 8 == 0 && end - at >= 8) {
      uint64_t expected;
      std::memcpy(&expected, raw, 8);
      if (__atomic_load_n(reinterpret_cast<const uint64_t*>(ram_.view + at), __ATOMIC_RELAXED) !=
          expected)
        return false;
      at += 8, raw += 8;
    } else {
      uint16_t expected;
      std::memcpy(&expected, raw, 2);
      if (halfAt(at) != expected) return false;
      at += 2, raw += 2;
    }
  }
  return true;
}

Block* BlockCache::search(uint64_t offset) noexcept {
  Block** link = &buckets_[bucketOf(offset)];
  Block** const head = link;
  while (Block* block = *link) {
    if (block->offset != offset) {
      link = &block->hashNext;
      continue;
    }
    *link = block->hashNext;
    if (block->epoch != epoch) {
      if (!unchanged(block)) {
        block->epoch = 0;  // whoever is linked to it looks here again
        break;
      }
      block->epoch = epoch;
    }
    block->hashNext = *head;  // to the front, where at() looks
    *head = block;
    return block;
  }
  return build(offset);
}

Block* BlockCache::build(uint64_t offset) noexcept {
  Instruction instructions[kMaxCount];
  uint32_t raw[kMaxCount];
  const uint64_t pageEnd = (offset & ~kPageMask) + kPageBytes;
  unsigned count = 0;
  uint64_t at = offset;
  while (count < kMaxCount && at < pageEnd) {
    const uint16_t low = halfAt(at);
    const unsigned length = lengthOf(low);
    if (at + length > pageEnd) break;
    raw[count] = length == 4 ? low | uint32_t(halfAt(at + 2)) << 16 : low;
    instructions[count] = decode(raw[count]);
    at += length;
    if (endsBlock(instructions[count++].op)) break;
  }
  if (count == 0) return nullptr;

  const unsigned opCount = count + (endsBlock(instructions[count - 1].op) ? 0 : 1);
  const uint64_t room = roomFor(opCount, unsigned(at - offset));
  if (used_ + room > kArenaBytes) clear();
  auto* block = reinterpret_cast<Block*>(arena_ + used_);
  used_ += room;
  Block*& head = buckets_[bucketOf(offset)];
  *block = {offset,           epoch, head, nullptr, nullptr, uint16_t(count), uint16_t(at - offset),
            uint16_t(opCount)};
  head = block;
  finish(block, instructions, raw);
  return block;
}

Block* BlockCache::straddling(uint64_t low, uint64_t high) noexcept {
  const uint32_t raw = halfAt(low) | uint32_t(halfAt(high)) << 16;
  const Instruction instruction = decode(raw);
  auto* block = reinterpret_cast<Block*>(scratch_);
  *block = {low, 0, nullptr, nullptr, nullptr, 1, 4, uint16_t(endsBlock(instruction.op) ? 1 : 2)};
  finish(block, &instruction, &raw);
  return block;
}

void BlockCache::finish(Block* block, const Instruction* instructions,
                        const uint32_t* raw) noexcept {
  DecodedOp* op = block->ops();
  uint8_t* bytes = block->raw();
  unsigned offset = 0;
  for (unsigned i = 0; i < block->count; ++i, ++op) {
    const Instruction& from = instructions[i];
    const unsigned length = lengthOf(uint16_t(raw[i]));
    *op = {handlers_[size_t(from.op)], from.rd, from.rs1, from.rs2, uint8_t(length), from.imm};
    const bool relative = from.op == Op::Auipc || (from.op >= Op::Beq && from.op <= Op::Jal);
    if (relative) op->imm += int32_t(offset);
    std::memcpy(bytes + offset, &raw[i], length);
    offset += length;
  }
  if (block->opCount > block->count) *op = {handlers_[size_t(Op::Next)], 0, 0, 0, 0, 0};
}

}  // namespace ckptfs::rv64
