#include "disk/redo_index.h"

#include <algorithm>
#include <iterator>

namespace ckptfs {

namespace {

template <class Entries>
auto lowerBound(Entries& entries, uint64_t block) {
  return std::lower_bound(
      entries.begin(), entries.end(), block,
      [](const IndexEntry& entry, uint64_t wanted) { return entry.block < wanted; });
}

}  // namespace

RedoIndex::Cursor RedoIndex::seek(uint64_t block) const {
  auto leaf = leaves_.upper_bound(block);
  if (leaf == leaves_.begin()) return {leaf, 0};
  --leaf;
  Cursor cursor{leaf, size_t(lowerBound(leaf->second, block) - leaf->second.begin())};
  if (cursor.at == leaf->second.size()) cursor = {std::next(leaf), 0};
  return cursor;
}

void RedoIndex::next(Cursor& cursor) const {
  if (++cursor.at == cursor.leaf->second.size()) cursor = {std::next(cursor.leaf), 0};
}

RedoIndex::Leaves::iterator RedoIndex::leafOf(uint64_t block) {
  auto after = leaves_.upper_bound(block);
  if (after != leaves_.begin()) return std::prev(after);
  if (after == leaves_.end()) return leaves_.emplace(block, Leaf{}).first;
  auto first = leaves_.extract(after);
  first.key() = block;
  return leaves_.insert(std::move(first)).position;
}

void RedoIndex::split(Leaves::iterator leaf) {
  const auto middle = leaf->second.begin() + kLeafEntries / 2;
  leaves_.emplace(middle->block, Leaf(middle, leaf->second.end()));
  leaf->second.erase(middle, leaf->second.end());
}

RedoIndex::Run RedoIndex::find(uint64_t first, uint64_t count, Locations& locations) const {
  const uint64_t end = first + count;
  Cursor cursor = seek(first);
  const auto blockAt = [this](const Cursor& at) {
    return at.leaf == leaves_.end() ? UINT64_MAX : at.leaf->second[at.at].block;
  };
  const uint64_t data = std::min(end, blockAt(cursor));
  if (data > first) {
    const auto after = zeroes_.upper_bound(first);
    if (after != zeroes_.begin() && first < std::prev(after)->second)
      return {Kind::zeroes, std::min(data, std::prev(after)->second) - first};
    const uint64_t limit = after == zeroes_.end() ? data : std::min(data, after->first);
    return {Kind::absent, limit - first};
  }
  uint64_t found = 0;
  for (; found < std::min(count, kRunBlocks) && blockAt(cursor) == first + found; next(cursor)) {
    const IndexEntry& entry = cursor.leaf->second[cursor.at];
    locations[found++] = {entry.offset, entry.checksum, 0};
  }
  return {Kind::data, found};
}

void RedoIndex::put(uint64_t first, uint64_t offset, uint32_t blockBytes,
                    std::span<const uint64_t> checksums) {
  auto leaf = leaves_.end();
  uint64_t leafEnd = 0;  // where the next one begins
  const auto find = [&](uint64_t block) {
    leaf = leafOf(block);
    leafEnd = std::next(leaf) == leaves_.end() ? UINT64_MAX : std::next(leaf)->first;
  };
  for (const uint64_t checksum : checksums) {
    if (first >= leafEnd) find(first);
    auto at = lowerBound(leaf->second, first);
    const bool here = at != leaf->second.end() && at->block == first;
    if (!here && leaf->second.size() == kLeafEntries) {
      // What is written in order fills its leaves.
      if (at == leaf->second.end() && leafEnd == UINT64_MAX)
        leaves_.emplace(first, Leaf{});
      else
        split(leaf);
      find(first);
      at = lowerBound(leaf->second, first);
    }
    if (here)
      *at = {first, offset, checksum};
    else
      leaf->second.insert(at, {first, offset, checksum});
    dataBlocks_ += !here;
    first++;
    offset += blockBytes;
  }
}

void RedoIndex::zero(uint64_t first, uint64_t count) {
  uint64_t end = first + count;
  auto next = leaves_.upper_bound(first);
  if (next != leaves_.begin()) --next;
  while (next != leaves_.end() && next->first < end) {
    const auto leaf = next++;
    Leaf& entries = leaf->second;
    const auto from = lowerBound(entries, first), to = lowerBound(entries, end);
    dataBlocks_ -= uint64_t(to - from);
    entries.erase(from, to);
    if (entries.size() < entries.capacity() / 4) entries.shrink_to_fit();
    if (entries.empty()) leaves_.erase(leaf);
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
  for (const auto& [first, leaf] : leaves_) all.insert(all.end(), leaf.begin(), leaf.end());
  return all;
}

std::vector<ZeroExtent> RedoIndex::extents() const {
  std::vector<ZeroExtent> all;
  for (const auto& [first, end] : zeroes_) all.push_back({first, end - first});
  return all;
}

}  // namespace ckptfs
