#include "disk/redo_index.h"

#include <algorithm>
#include <bit>

namespace ckptfs {

uint64_t RedoIndex::nextData(uint64_t first, uint64_t end) const {
  for (auto it = chunks_.lower_bound(first / kChunkBlocks); it != chunks_.end(); ++it) {
    const uint64_t start = it->first * kChunkBlocks;
    if (start >= end) break;
    uint64_t present = it->second.present;
    if (start < first) present &= ~uint64_t{0} << (first - start);
    if (present != 0) return std::min(end, start + uint64_t(std::countr_zero(present)));
  }
  return end;
}

RedoIndex::Run RedoIndex::find(uint64_t first, uint64_t count, Locations& locations) const {
  const uint64_t end = first + count;
  const uint64_t data = nextData(first, end);
  if (data > first) {
    const auto after = zeroes_.upper_bound(first);
    if (after != zeroes_.begin() && first < std::prev(after)->second)
      return {Kind::zeroes, std::min(data, std::prev(after)->second) - first};
    const uint64_t limit = after == zeroes_.end() ? data : std::min(data, after->first);
    return {Kind::absent, limit - first};
  }
  uint64_t found = 0;
  auto it = chunks_.find(first / kChunkBlocks);
  while (found < std::min(count, kRunBlocks)) {
    const uint64_t block = first + found;
    if (it != chunks_.end() && it->first < block / kChunkBlocks) ++it;
    if (it == chunks_.end() || it->first != block / kChunkBlocks) break;
    const uint64_t slot = block % kChunkBlocks;
    if ((it->second.present >> slot & 1) == 0) break;
    locations[found++] = it->second.at[slot];
  }
  return {Kind::data, found};
}

void RedoIndex::put(uint64_t first, uint64_t offset, uint32_t blockBytes,
                    std::span<const uint64_t> checksums) {
  for (const uint64_t checksum : checksums) {
    Chunk& chunk = chunks_[first / kChunkBlocks];
    const uint64_t bit = uint64_t{1} << first % kChunkBlocks;
    dataBlocks_ += (chunk.present & bit) == 0;
    chunk.present |= bit;
    chunk.at[first % kChunkBlocks] = {offset, checksum};
    first++;
    offset += blockBytes;
  }
}

void RedoIndex::zero(uint64_t first, uint64_t count) {
  uint64_t end = first + count;
  for (uint64_t block = nextData(first, end); block < end; block = nextData(block, end)) {
    const auto it = chunks_.find(block / kChunkBlocks);
    Chunk& chunk = it->second;
    const uint64_t start = it->first * kChunkBlocks;
    uint64_t gone = ~uint64_t{0} << (block - start);
    if (end - start < kChunkBlocks) gone &= ~(~uint64_t{0} << (end - start));
    dataBlocks_ -= uint64_t(std::popcount(chunk.present & gone));
    // Cleared locations are reset too, so that equal indexes compare equal.
    for (uint64_t slot = 0; slot < kChunkBlocks; slot++)
      if ((gone >> slot & 1) != 0) chunk.at[slot] = {};
    chunk.present &= ~gone;
    if (chunk.present == 0) chunks_.erase(it);
  }
  // Extents that overlap or touch become one.
  auto it = zeroes_.upper_bound(first);
  if (it != zeroes_.begin() && std::prev(it)->second >= first) --it;
  while (it != zeroes_.end() && it->first <= end) {
    first = std::min(first, it->first);
    end = std::max(end, it->second);
    it = zeroes_.erase(it);
  }
  zeroes_[first] = end;
}

std::vector<IndexEntry> RedoIndex::entries() const {
  std::vector<IndexEntry> all;
  all.reserve(dataBlocks_);
  for (const auto& [number, chunk] : chunks_)
    for (uint64_t slot = 0; slot < kChunkBlocks; slot++)
      if ((chunk.present >> slot & 1) != 0)
        all.push_back(
            {number * kChunkBlocks + slot, chunk.at[slot].offset, chunk.at[slot].checksum});
  return all;
}

std::vector<ZeroExtent> RedoIndex::extents() const {
  std::vector<ZeroExtent> all;
  for (const auto& [first, end] : zeroes_) all.push_back({first, end - first});
  return all;
}

}  // namespace ckptfs
