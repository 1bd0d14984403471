// Which blocks a sealed redo log holds, or several of them together, and where.
//
// Immutable: sorted arrays in the form that an index record has, so that a log is opened by reading
// them, and any number of threads look things up without a lock. The indexes of the sealed logs of
// a chain are merged into one, in which every block is that of the newest log which has it; so a
// read does not walk the logs. Entries of a merged index name their log in the upper 16 bits of
// the offset, which no file's size needs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "disk/redo_index.h"

namespace ckptfs {

class SealedIndex {
 public:
  static constexpr unsigned kOffsetBits = 48;
  static constexpr size_t kMaxLogs = size_t{1} << (64 - kOffsetBits);

  /** Of nothing. */
  SealedIndex() = default;
  explicit SealedIndex(const RedoIndex& index);
  /** In memory that is kept with it; ascending, within the disk, offsets below 2^48. */
  SealedIndex(std::shared_ptr<const void> memory, std::span<const IndexEntry> entries,
              std::span<const ZeroExtent> extents)
      : memory_(std::move(memory)), entries_(entries), extents_(extents) {}

  /** What the first `count` logs, those of `older`, and over them those of `newer` hold; to the
   *  numbers of the latter `count` is added. */
  static SealedIndex merge(const SealedIndex& older, const SealedIndex& newer, size_t count);
  /** What several logs hold together, oldest first. */
  static SealedIndex merge(std::span<const SealedIndex> logs);
  /** Which of them the entry of a merged index is of. */
  static size_t logOf(const IndexEntry& entry) noexcept { return entry.offset >> kOffsetBits; }

  /** As RedoIndex::find; a run of data may be of several logs. */
  RedoIndex::Run find(uint64_t first, uint64_t count, RedoIndex::Locations& locations) const;

  /** Ascending. A block of an entry is data even where an extent covers it. */
  std::span<const IndexEntry> entries() const noexcept { return entries_; }
  std::span<const ZeroExtent> extents() const noexcept { return extents_; }

 private:
  std::shared_ptr<const void> memory_;
  std::span<const IndexEntry> entries_;
  std::span<const ZeroExtent> extents_;  // apart from each other
};

}  // namespace ckptfs
