// Checks one segment file, and that memory.map tells the truth about it.
//
// One check belongs to one thread; VerifiedSegments is shared by all of a run.
#pragma once

#include <functional>
#include <mutex>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "base/page_buffer.h"
#include "checkpoint/image/checkpoint_file.h"
#include "checkpoint/image/io_block_index.h"
#include "checkpoint/image/memory_map.h"

namespace ckptfs {

/** One damaged place. */
struct Damage {
  std::string file;  // path
  std::string what;
};

/** At most this many places are reported; the last one then says that there are more. */
inline constexpr size_t kMaxDamages = 100;

/** Segment files that were found whole in this run, so that each is read once however many
 *  checkpoints share it. The file itself counts, not its id: a copy may be damaged where the
 *  original is not. Any thread. */
class VerifiedSegments {
 public:
  bool contains(const FileIdentity& file) const {
    const std::lock_guard lock(lock_);
    return files_.contains(file);
  }
  void add(const FileIdentity& file) {
    const std::lock_guard lock(lock_);
    files_.insert(file);
  }

 private:
  mutable std::mutex lock_;
  std::set<FileIdentity> files_;
};

class SegmentCheck {
 public:
  /** Told how many bytes of the file are done; may throw, which ends the check. */
  using Advance = std::function<void(uint64_t bytes)>;

  /** A segment without a map. */
  SegmentCheck(std::string path, Advance advance)
      : path_(std::move(path)), advance_(std::move(advance)) {}
  /** Segment `index` of `map`, whose blocks `blocks` has. */
  SegmentCheck(std::string path, Advance advance, const MemoryMap& map, const IoBlockIndex& blocks,
               uint32_t index);

  /** Everything that is wrong; Error when the file cannot be read or is no segment at all. Of a
   *  file that `verified` has, the bodies are not read again, but everything that this map says
   *  about it is checked all the same. */
  std::vector<Damage> run(VerifiedSegments* verified);

 private:
  void checkWhole(const CheckpointFile& file);
  void checkRows(const CheckpointFile& file);
  bool checkBodies(const std::string& where, std::span<const std::byte> ioBlock);
  void checkRow(uint32_t row, const std::string& where, std::span<const std::byte> ioBlock);
  void report(const std::string& what) {
    if (damages_.size() <= kMaxDamages) damages_.push_back({path_, what});
  }

  const std::string path_;
  const Advance advance_;
  const MemoryMap* map_ = nullptr;  // null: the segment is checked by itself
  const IoBlockIndex* blocks_ = nullptr;
  uint32_t index_ = 0;
  uint32_t rowsBegin_ = 0, rowsEnd_ = 0;  // of the IO block table
  std::vector<Damage> damages_;

  Geometry geometry_;  // the segment's, like the rest
  uint64_t memoryBlocks_ = 0;
  uint64_t end_ = 0;       // of the IO blocks
  uint64_t ioBlocks_ = 0;  // as the seal says
  uint64_t blockEntries_ = 0;
  PageBuffer buffer_;
};

}  // namespace ckptfs
