// The layers of a disk at one moment: the parent, and redo logs over it.
//
// A value, cheap to copy: an immutable linked list, newest first, whose logs are shared with every
// other moment of the disk. A request takes the layers once and keeps them to its end, whatever is
// pushed or committed meanwhile.
//
// A read need not walk the logs one by one: merged() gives the same layers with one index of all
// their sealed logs, so it looks into the logs above those and then into that index.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/error.h"
#include "disk/parent.h"
#include "disk/redo_log.h"
#include "disk/sealed_index.h"

namespace ckptfs {

/** A run of a disk that one layer has. */
struct LayerRun {
  uint64_t offset;
  uint64_t bytes;
  uint64_t layer;  // 0: the parent; then the logs, oldest first
  bool zeroes;     // nothing is stored for it: a hole of the parent, or zeroed in a log
  bool operator==(const LayerRun&) const = default;
};

class Layers {
 public:
  /** The parent alone; `committed` is the id of the last log that was committed into it. */
  explicit Layers(std::shared_ptr<Parent> parent, const LogId& committed = {});

  Parent& parent() const noexcept { return *parent_; }
  const std::shared_ptr<Parent>& sharedParent() const noexcept { return parent_; }
  const LogId& committedId() const noexcept { return committed_; }
  /** The newest log; null if there is none. */
  RedoLog* newest() const noexcept { return top_ ? top_->log.get() : nullptr; }
  bool empty() const noexcept { return top_ == nullptr; }
  /** Of the newest layer, for PendingWrites: upwards from 0, the parent, in the order of pushes. */
  uint64_t number() const noexcept { return top_ ? top_->number : 0; }
  uint64_t bytes() const noexcept { return parent_->bytes(); }
  std::vector<std::shared_ptr<RedoLog>> oldestFirst() const;

  /** The parentId of a log over these. */
  LogId topId() const noexcept { return top_ ? top_->log->header().id : committed_; }
  /** Throws Error(code) unless `log` belongs over these layers. */
  void requireFollows(const RedoLog& log, Code code) const;
  /** These with `log` over them. */
  Layers with(std::shared_ptr<RedoLog> log) const;
  /** These without the newest log, of which there is one. */
  Layers below() const;
  /** These with an index of all sealed logs up to the first that is not sealed. Takes some 5 ns for
   *  each block of those that had none. */
  Layers merged() const;
  /** These with the merged index of `other`, earlier layers of the same disk. */
  Layers withIndexOf(const Layers& other) const;
  /** Of these only `count` logs, the oldest of them the one that `first` are below, as if all below
   *  had been committed. Throws Error(usage) unless there are such, and all are sealed. */
  Layers part(size_t first, size_t count) const;
  /** These without the `count` oldest logs, which have been committed into `parent`. */
  Layers committed(size_t count, std::shared_ptr<Parent> parent) const;
  /** These with `log` in the place of the logs of that part. */
  Layers compacted(size_t first, size_t count, std::shared_ptr<RedoLog> log) const;

  /** Any range of the disk. Throws Error: damaged, io. */
  void read(uint64_t offset, std::span<std::byte> into) const;
  /** Whole blocks, by the block size of the logs, of which there is one. */
  void readBlocks(uint64_t first, std::span<std::byte> into) const;
  /** All of the disk in order, in runs as long as can be. */
  std::vector<LayerRun> map() const;
  /** What all of the logs hold; they are merged(). */
  const SealedIndex& index() const noexcept { return merged_->index; }

 private:
  struct Layer {
    std::shared_ptr<RedoLog> log;
    std::shared_ptr<const Layer> below;
    uint64_t number;
  };
  using Top = std::shared_ptr<const Layer>;
  /** What `top` and all below it hold together. */
  struct Merged {
    Top top;
    std::vector<std::shared_ptr<RedoLog>> logs;  // oldest first
    SealedIndex index;
  };

  /** Oldest first. */
  std::vector<const Layer*> nodes() const;
  void add(std::shared_ptr<RedoLog> log, uint64_t number);
  void readBlocks(const Layer* layer, uint64_t first, std::span<std::byte> into) const;
  void readParent(uint64_t first, std::span<std::byte> into) const;
  void mapBlocks(const Layer* layer, uint64_t number, uint64_t first, uint64_t count,
                 std::vector<LayerRun>& runs) const;

  std::shared_ptr<Parent> parent_;
  LogId committed_;
  Top top_;                               // null: the parent alone
  std::shared_ptr<const Merged> merged_;  // null: none; its top may lie above this one's
};

}  // namespace ckptfs
