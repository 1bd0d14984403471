// A virtual disk: a parent and redo logs over it, read from the newest down, written at the top.
//
// push() puts a new layer in front by swapping one pointer; readers and writers take the Layers
// once a request (a pin), so that reads of the mount need no quiet. Layers are shared with the
// views that frozenView() gives, which outlive further pushes.
//
// A checkpoint is: prepare() before the pause, push() in it, frozenView() and sealFrozen() after it
// (requirements A1 to A3). Any thread may call any member at any time. Requests may be in flight
// across a push: one that was pinned before it reads and writes the layers of then, to its end, so
// that its writes reach the frozen disk as well as the ongoing one; what is written afterwards
// reaches only the latter (requirement A8). PendingWrites keeps account of them: sealFrozen() waits
// for those writes, and so does a newer write that copies up part of a block group which one of
// them changes (requirement A13).
//
// A commit moves what the oldest logs hold into the parent while requests go on: the logs hide what
// it writes until all is there, so it may be broken off anywhere (requirement A6). A compaction
// makes one log of several, and takes that instead of them once it is whole.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "disk/commit.h"
#include "disk/disk.h"
#include "disk/layers.h"
#include "disk/log_compaction.h"
#include "disk/log_survey.h"
#include "disk/pending_writes.h"
#include "disk/range_lock.h"

namespace ckptfs {

class Chain final : public Disk {
 public:
  enum class Access : uint8_t {
    readonly,  // no writes, nothing changes
    direct,    // writes go to the parent until the first push (persistent disk)
    redo,      // writes go to the newest redo log; if there is none, or it is sealed, push first
    overlay,   // as redo, but these layers belong to a checkpoint: nothing is cut or sealed
  };
  struct LayerSpec {
    std::string path;
    std::optional<uint64_t> sealedBytes;  // if known: it must be sealed and exactly so long
  };
  struct LayerInfo {
    std::string path;
    uint64_t bytes;  // final once sealed
    bool sealed;
  };

  /**
   * Opens the parent and the logs, oldest first. With `identity` the parent must be as it was then;
   * `committed` is the last log that was committed into it. Under `redo` an unsealed log has its
   * torn tail cut off, and is sealed unless it is the newest. Throws Error: notFound, busy, usage,
   * io; damaged also for logs that do not follow one another.
   */
  static std::unique_ptr<Chain> open(const std::string& parent,
                                     const std::optional<ParentIdentity>& identity,
                                     const std::vector<LayerSpec>& redo, Access access,
                                     const LogId& committed = {});
  ~Chain() override;

  uint64_t bytes() const noexcept override { return bytes_; }
  bool readOnly() const noexcept override { return access_ == Access::readonly; }
  void read(uint64_t offset, std::span<std::byte> into) override;
  void writev(uint64_t offset, Buffers from) override;
  void flush() override;
  void writeZeroes(uint64_t offset, uint64_t length, bool unmap) override;
  void discard(uint64_t offset, uint64_t length) override;
  std::shared_ptr<Disk> pin(std::span<const Extent> changes) override;

  /** Creates at `path` an empty log that follows the newest layer, ready to be pushed. */
  std::unique_ptr<RedoLog> prepare(const std::string& path) const;
  /**
   * Sends all later writes to `fresh`, made by prepare() since the last push. O(1), without IO: the
   * disk's whole part in a checkpoint's pause. Requests that were pinned before go on where they
   * are. Over the layers of a checkpoint it may be an older log, with what was written to it.
   * Error(usage) if `fresh` does not belong here.
   */
  void push(std::unique_ptr<RedoLog> fresh);
  /** True once no write that was in flight at the last push is; false after `timeout`. */
  bool waitFrozen(std::chrono::milliseconds timeout);
  /** Makes all below the newest layer durable and immutable, the parent included, after it waited
   *  for what waitFrozen() waits for. Idempotent. */
  void sealFrozen();
  /** The disk as it was at the last push, with what was in flight then once that is complete:
   *  read-only, of the layers below the newest. */
  std::unique_ptr<Chain> frozenView() const;

  /** The redo logs, oldest first. */
  std::vector<LayerInfo> layers() const;
  /** All of the disk in order, in runs as long as can be. */
  std::vector<LayerRun> map() const { return now().map(); }
  std::string parentPath() const { return now().parent().path(); }
  /** As it was opened; of a direct disk as it is now, until sealFrozen() has frozen it. */
  ParentIdentity parentIdentity() const { return now().parent().identity(); }
  /** The last log that was committed into the parent; zeros if none was. */
  LogId committed() const { return now().committedId(); }

  /**
   * Writes what the oldest logs hold to the parent, makes it durable, and then does without these
   * logs. The disk never changes by it, and requests go on. On failure it is as if not begun, but
   * that the parent holds some of what the logs hide. Throws Error: busy while others use the
   * parent or another commit goes on; usage; cancelled; damaged, io, noSpace.
   */
  void commit(const Commit& commit, Progress& progress);
  /** How much of each log is of use. */
  std::vector<LogSurvey> survey() const { return surveyLogs(now()); }
  /**
   * Replaces runs of sealed logs, in the order of the disk, by one log each. The disk never changes
   * by it, and requests go on. All are made before the first takes its place: until then a failure
   * leaves everything as it was. The files of the logs that were replaced are the caller's to
   * remove. Throws Error: busy while a commit or another compaction goes on; usage; cancelled;
   * damaged, io, noSpace.
   */
  void compact(const std::vector<LogRun>& runs, Progress& progress);
  /** Seals the newest log too, for a commit of all: the disk takes no more writes. */
  void seal();

 private:
  class Pinned;
  class Rewrite;

  Chain(Layers layers, Access access);

  Layers now() const;
  void requireRange(uint64_t offset, uint64_t length, uint64_t alignment) const;
  /** The newest log; null if writes go to the parent. */
  RedoLog* writeTarget(const Layers& layers) const;
  void append(const Layers& layers, uint64_t offset, Buffers from);
  /** Lets reads find what sealed logs hold without walking them. */
  void mergeIndex();
  void mergeNow();  // with upkeep_ held

  // The requests, on the layers that a pin took. Ranges have been checked.
  void writeTo(const Layers& layers, uint64_t offset, Buffers from);
  void zeroIn(const Layers& layers, uint64_t offset, uint64_t length, bool unmap);
  void flushAll(const Layers& layers);
  void awaitParts(const Layers& layers, uint64_t offset, uint64_t length);

  const Access access_;
  const uint64_t bytes_;
  RangeLock writing_;                   // of blocks, by writes to a redo log
  PendingWrites pending_;               // added to with nowMutex_ held
  std::atomic<bool> rewriting_{false};  // a commit or a compaction goes on
  std::mutex upkeep_;                   // held by whoever rewrites or merges; before nowMutex_
  mutable std::mutex nowMutex_;
  Layers now_;
  std::thread merging_;  // the first mergeIndex(), begun by open()
};

}  // namespace ckptfs
