#include "disk/sealed_index.h"

#include <algorithm>
#include <vector>

namespace ckptfs {
namespace {

constexpr uint64_t kOffsetMask = (uint64_t{1} << SealedIndex::kOffsetBits) - 1;

/** The arrays of an index that is being made. */
struct Arrays {
  std::vector<IndexEntry> entries;
  std::vector<ZeroExtent> extents;
};

SealedIndex sealed(Arrays arrays) {
  const auto kept = std::make_shared<const Arrays>(std::move(arrays));
  return {kept, kept->entries, kept->extents};
}

uint64_t endOf(const ZeroExtent& extent) {
  return extent.first + extent.count;
}

/** The union; extents that overlap or touch become one. */
std::vector<ZeroExtent> unite(std::span<const ZeroExtent> one, std::span<const ZeroExtent> other) {
  std::vector<ZeroExtent> all(one.size() + other.size());
  std::merge(one.begin(), one.end(), other.begin(), other.end(), all.begin(),
             [](const ZeroExtent& a, const ZeroExtent& b) { return a.first < b.first; });
  std::vector<ZeroExtent> united;
  for (const ZeroExtent& extent : all) {
    if (united.empty() || extent.first > endOf(united.back()))
      united.push_back(extent);
    else
      united.back().count = std::max(endOf(united.back()), endOf(extent)) - united.back().first;
  }
  return united;
}

}  // namespace

SealedIndex::SealedIndex(const RedoIndex& index)
    : SealedIndex(sealed({index.entries(), index.extents()})) {}

SealedIndex SealedIndex::merge(const SealedIndex& older, const SealedIndex& newer, size_t count) {
  Arrays merged{{}, unite(older.extents_, newer.extents_)};
  merged.entries.reserve(older.entries_.size() + newer.entries_.size());
  auto old = older.entries_.begin();
  auto zeroed = newer.extents_.begin();
  // Of the older ones up to `end`, what the newer log does not zero.
  const auto take = [&](uint64_t end) {
    for (; old != older.entries_.end() && old->block < end; ++old) {
      while (zeroed != newer.extents_.end() && endOf(*zeroed) <= old->block) ++zeroed;
      if (zeroed == newer.extents_.end() || old->block < zeroed->first)
        merged.entries.push_back(*old);
    }
  };
  for (const IndexEntry& entry : newer.entries_) {
    take(entry.block);
    if (old != older.entries_.end() && old->block == entry.block) ++old;
    merged.entries.push_back(
        {entry.block, entry.offset + (uint64_t{count} << kOffsetBits), entry.checksum});
  }
  take(UINT64_MAX);
  if (merged.entries.size() < merged.entries.capacity() * 7 / 8) merged.entries.shrink_to_fit();
  return sealed(std::move(merged));
}

// By halves, so that each entry is moved as often as there are halvings.
SealedIndex SealedIndex::merge(std::span<const SealedIndex> logs) {
  if (logs.empty()) return {};
  if (logs.size() == 1) return logs.front();
  const size_t half = logs.size() / 2;
  return merge(merge(logs.first(half)), merge(logs.subspan(half)), half);
}

RedoIndex::Run SealedIndex::find(uint64_t first, uint64_t count,
                                 RedoIndex::Locations& locations) const {
  using Kind = RedoIndex::Kind;
  auto entry = std::lower_bound(
      entries_.begin(), entries_.end(), first,
      [](const IndexEntry& candidate, uint64_t block) { return candidate.block < block; });
  const uint64_t data =
      std::min(first + count, entry == entries_.end() ? UINT64_MAX : entry->block);
  if (data > first) {
    const auto after = std::upper_bound(
        extents_.begin(), extents_.end(), first,
        [](uint64_t block, const ZeroExtent& candidate) { return block < candidate.first; });
    if (after != extents_.begin() && first < endOf(*std::prev(after)))
      return {Kind::zeroes, std::min(data, endOf(*std::prev(after))) - first};
    const uint64_t limit = after == extents_.end() ? data : std::min(data, after->first);
    return {Kind::absent, limit - first};
  }
  uint64_t found = 0;
  for (; found < std::min(count, RedoIndex::kRunBlocks) && entry != entries_.end() &&
         entry->block == first + found;
       ++entry)
    locations[found++] = {entry->offset & kOffsetMask, entry->checksum,
                          static_cast<uint16_t>(logOf(*entry))};
  return {Kind::data, found};
}

}  // namespace ckptfs
