// A copy-on-write log over a parent disk or another redo log: append-only, immutable once sealed.
//
// Any thread may call any member at any time. `append_` orders the writers: a record is written
// whole before the next begins, since a scan after a kill needs records without gaps between them.
// Reserving room and writing in parallel would gain nothing: the kernel takes the inode's lock for
// each buffered write anyhow. The costly part, copying and checksumming the blocks, is done by
// Record outside the lock. `indexLock_` guards the index; readers hold it for the lookup alone, as
// data in a log never moves.
//
// A write that fails (no space) leaves the log as it was. After a failed flush it refuses all.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <span>
#include <string>

#include "disk/file.h"
#include "disk/redo_index.h"
#include "disk/redo_record.h"
#include "disk/redo_scan.h"
#include "disk/sealed_index.h"
#include "disk/writeback.h"

namespace ckptfs {

class RedoLog {
 public:
  enum class Mode : uint8_t { reader, writer };
  struct Options {
    uint32_t blockBytes = 4096;  // the COW block group: a power of two, 512 to 65536
    LogId parentId = {};         // of the log below; all zero over a parent disk
    std::optional<LogId> id;     // random if not given
  };

  /** A new, empty, durable log. Throws Error: exists, noSpace, io; usage for sizes out of range. */
  static std::unique_ptr<RedoLog> create(const std::string& path, uint64_t diskBytes,
                                         const Options& options);
  /**
   * Opens a log as the scan finds it. A torn tail is cut off by a writer and ignored by a reader. A
   * sealed log is read-only in both modes. Throws Error: notFound, busy, damaged, unsupported, io.
   */
  static std::unique_ptr<RedoLog> open(const std::string& path, Mode mode);

  const std::string& path() const noexcept { return file_.path(); }
  const RedoHeader& header() const noexcept { return header_; }
  uint32_t blockBytes() const noexcept { return header_.blockBytes; }
  uint64_t blocks() const noexcept { return header_.blocks(); }
  /** Bytes of the log; final once it is sealed. */
  uint64_t bytes() const;
  bool sealed() const;
  /** Whether it has no records. */
  bool empty() const { return bytes() == sizeof(RedoHeader); }

  /**
   * Reads from block `first` into `into` (whole blocks). Returns how many blocks it dealt with, at
   * least one, and whether they are here; if not, `into` is untouched and the layer below has them.
   * Throws Error(damaged) for a block that does not match its checksum.
   */
  struct Run {
    bool here;
    uint64_t count;
  };
  Run read(uint64_t first, std::span<std::byte> into) const;

  /** What the log has from block `first` on: the longest run of one kind, of at most `count` blocks
   *  (RedoIndex::kRunBlocks of data, which lie at `locations`). */
  RedoIndex::Run find(uint64_t first, uint64_t count, RedoIndex::Locations& locations) const;
  /** Reads blocks from `first` on that lie at `locations`. Throws Error: damaged, io. */
  void readAt(uint64_t first, std::span<const BlockLocation> locations,
              std::span<std::byte> into) const;
  /** All that the log has, once it is sealed; null before. */
  std::shared_ptr<const SealedIndex> sealedIndex() const;
  /** All that it has at this moment. */
  SealedIndex indexNow() const;

  /** Appends the blocks of `record`, made by Record::data with this log's block size. */
  void write(Record& record);
  void writeZeroes(uint64_t first, uint64_t count);
  /** Everything written before is durable when it returns. */
  void flush();
  /** Makes the log durable and immutable, and shares the file; idempotent. */
  void seal();
  /** Gives it another name, at once; a file that had it is gone. Durable once the directory is
   *  synced. By the one thread that knows the log. */
  void moveTo(const std::string& path) { file_.replace(path); }

 private:
  RedoLog(const std::string& path, const RedoHeader& header);  // creates
  RedoLog(const std::string& path, Mode mode);                 // opens

  void requireWritable() const;
  void append(Record& record);
  void checkBlock(uint64_t block, const BlockLocation& at, std::span<std::byte> into) const;

  File file_;
  RedoHeader header_;

  mutable std::mutex append_;
  bool writable_;
  bool sealed_ = false;
  uint64_t end_;  // where the next record goes
  uint64_t nextSequence_;
  uint64_t durable_;    // all below is known to be durable
  uint64_t unflushed_;  // the end of the last record that a flush must make durable
  std::unique_ptr<Writeback> writeback_;  // of a log that is written

  mutable std::shared_mutex indexLock_;
  RedoIndex index_;  // empty once there is the other
  std::shared_ptr<const SealedIndex> sealedIndex_;
};

}  // namespace ckptfs
