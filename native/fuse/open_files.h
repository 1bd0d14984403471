// The files that the kernel has open, by the handle that JavaScript gave each.
//
// All calls from any thread. Whoever works on a file keeps it alive; the kernel's release only ends
// what begins later.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <utility>

#include "base/shared_source.h"
#include "fuse/request.h"

namespace ckptfs::fuse {

struct OpenFile {
  uint64_t handle;
  SharedPath path;
  std::shared_ptr<SharedSource> source;  // null: JavaScript has the bytes
  uint64_t bytes;                        // how many, when it was opened
  bool writable;
  bool polls;  // JavaScript knows when it has changed
};

class OpenFiles {
 public:
  // src/fs/tree_server.ts has the limit on their number.
  void add(std::shared_ptr<const OpenFile> file) {
    const std::lock_guard lock(lock_);
    const uint64_t handle = file->handle;
    files_.insert_or_assign(handle, std::move(file));
  }
  /** Null when there is none. */
  std::shared_ptr<const OpenFile> find(uint64_t handle) const {
    const std::lock_guard lock(lock_);
    const auto found = files_.find(handle);
    return found == files_.end() ? nullptr : found->second;
  }
  std::shared_ptr<const OpenFile> remove(uint64_t handle) {
    const std::lock_guard lock(lock_);
    auto found = files_.extract(handle);
    return found ? std::move(found.mapped()) : nullptr;
  }

 private:
  mutable std::mutex lock_;  // guards files_
  std::unordered_map<uint64_t, std::shared_ptr<const OpenFile>> files_;
};

}  // namespace ckptfs::fuse
