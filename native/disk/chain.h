// A virtual disk: a parent and redo logs over it, read from the newest down, written at the top.
//
// The layers are an immutable linked list, newest first. push() puts a new one in front by swapping
// one pointer; readers and writers take the pointer once a request (a pin), so that reads of the
// mount need no quiet. Layers are shared with the views that frozenView() gives, which outlive
// further pushes.
//
// A checkpoint is: prepare() before the pause, push() in it, frozenView() and sealFrozen() after it
// (requirements A1 to A3). Any thread may call any member at any time. Requests may be in flight
// across a push: one that was pinned before it reads and writes the layers of then, to its end, so
// that its writes reach the frozen disk as well as the ongoing one; what is written afterwards
// reaches only the latter (requirement A8). PendingWrites keeps account of them: sealFrozen() waits
// for those writes, and so does a newer write that copies up part of a block group which one of
// them changes (requirement A13).
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "disk/disk.h"
#include "disk/parent.h"
#include "disk/pending_writes.h"
#include "disk/range_lock.h"
#include "disk/redo_log.h"

namespace ckptfs {

class Chain final : public Disk {
 public:
  enum class Access : uint8_t {
    readonly,  // no writes, nothing changes
    direct,    // writes go to the parent until the first push (persistent disk)
    redo,      // writes go to the newest redo log; if there is none, or it is sealed, push first
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
   * Opens the parent and the logs, oldest first. With `identity` the parent must be as it was then.
   * Under `redo` an unsealed log has its torn tail cut off, and is sealed unless it is the newest.
   * Throws Error: notFound, busy, usage, io; damaged also for logs that do not follow one another.
   */
  static std::unique_ptr<Chain> open(const std::string& parent,
                                     const std::optional<ParentIdentity>& identity,
                                     const std::vector<LayerSpec>& redo, Access access);

  uint64_t bytes() const noexcept override { return parent_->bytes(); }
  bool readOnly() const noexcept override { return access_ == Access::readonly; }
  void read(uint64_t offset, std::span<std::byte> into) override;
  void write(uint64_t offset, std::span<const std::byte> from) override;
  void flush() override;
  void writeZeroes(uint64_t offset, uint64_t length, bool unmap) override;
  void discard(uint64_t offset, uint64_t length) override;
  std::shared_ptr<Disk> pin(std::span<const Extent> changes) override;

  /** Creates at `path` an empty log that follows the newest layer, ready to be pushed. */
  std::unique_ptr<RedoLog> prepare(const std::string& path) const;
  /**
   * Sends all later writes to `fresh`, made by prepare() since the last push. O(1), without IO: the
   * disk's whole part in a checkpoint's pause. Requests that were pinned before go on where they
   * are. Error(usage) if `fresh` does not belong here.
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
  const std::string& parentPath() const noexcept { return parent_->path(); }
  /** As it was opened; of a direct disk as it is now, until sealFrozen() has frozen it. */
  ParentIdentity parentIdentity() const { return parent_->identity(); }

 private:
  struct Layer {
    std::shared_ptr<RedoLog> log;
    std::shared_ptr<const Layer> below;
    uint64_t number = below ? below->number + 1 : 1;  // for PendingWrites; the parent is 0
  };
  using Layers = std::shared_ptr<const Layer>;
  class Pinned;

  Chain(std::shared_ptr<Parent> parent, Layers top, Access access)
      : parent_(std::move(parent)), access_(access), top_(std::move(top)) {}

  Layers top() const;
  static uint64_t numberOf(const Layers& top) { return top ? top->number : 0; }
  static std::vector<RedoLog*> oldestFirst(const Layers& layers);
  void requireFollows(const RedoLog& log, const Layers& below, Code code) const;
  void requireRange(uint64_t offset, uint64_t length, uint64_t alignment) const;
  /** The newest log; null if writes go to the parent. */
  RedoLog* writeTarget(const Layers& top) const;
  void readBlocks(const Layer* layer, uint64_t first, std::span<std::byte> into,
                  uint32_t blockBytes) const;
  void append(const Layers& top, uint64_t offset, std::span<const std::byte> from);

  // The requests, on the layers that a pin took. Ranges have been checked.
  void readFrom(const Layers& layers, uint64_t offset, std::span<std::byte> into) const;
  void writeTo(const Layers& layers, uint64_t offset, std::span<const std::byte> from);
  void zeroIn(const Layers& layers, uint64_t offset, uint64_t length, bool unmap);
  void flushAll(const Layers& layers);
  void awaitParts(const Layers& layers, uint64_t offset, uint64_t length);

  const std::shared_ptr<Parent> parent_;
  const Access access_;
  RangeLock writing_;      // of blocks, by writes to a redo log
  PendingWrites pending_;  // added to with topMutex_ held
  mutable std::mutex topMutex_;
  Layers top_;  // null: the parent alone
};

}  // namespace ckptfs
