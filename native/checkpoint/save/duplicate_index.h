// Which block a save has stored already with contents of a given hash: candidates for sharing a
// body. Of a bounded size: it forgets, and then a duplicate is stored once more.
//
// All calls from any thread.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <mutex>
#include <optional>
#include <vector>

#include "base/geometry.h"

namespace ckptfs {

class DuplicateIndex {
 public:
  /** For a save of up to `blocks` blocks. */
  explicit DuplicateIndex(uint64_t blocks)
      : buckets_(std::bit_ceil(std::clamp<uint64_t>(blocks / kWays, 16, kMaxBuckets))) {}

  std::optional<BlockId> find(uint64_t hash) const noexcept {
    const std::lock_guard lock(lock_);
    for (const Entry& entry : bucketOf(hash).entries)
      if (entry.blockPlusOne != 0 && entry.hash == hash) return entry.blockPlusOne - 1;
    return std::nullopt;
  }
  /** Replaces what is known of the same hash, else the bucket's oldest entry. */
  void insert(uint64_t hash, BlockId block) noexcept {
    const std::lock_guard lock(lock_);
    Bucket& bucket = bucketOf(hash);
    Entry* entry = std::find_if(bucket.entries, bucket.entries + kWays, [&](const Entry& e) {
      return e.blockPlusOne != 0 && e.hash == hash;
    });
    if (entry == bucket.entries + kWays) entry = &bucket.entries[bucket.next++ % kWays];
    *entry = {hash, static_cast<uint32_t>(block + 1)};
  }

 private:
  static constexpr size_t kWays = 4;
  static constexpr uint64_t kMaxBuckets = 1 << 18;  // 17 MiB, a million blocks
  struct Entry {
    uint64_t hash = 0;
    uint32_t blockPlusOne = 0;  // 0: empty
  };
  struct Bucket {
    Entry entries[kWays];
    uint32_t next = 0;
  };
  Bucket& bucketOf(uint64_t hash) noexcept { return buckets_[hash & (buckets_.size() - 1)]; }
  const Bucket& bucketOf(uint64_t hash) const noexcept {
    return buckets_[hash & (buckets_.size() - 1)];
  }

  mutable std::mutex lock_;
  std::vector<Bucket> buckets_;
};

}  // namespace ckptfs
