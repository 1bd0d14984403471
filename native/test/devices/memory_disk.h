// A Disk in memory for tests: it can hold requests back, fail, and tell what was asked of it.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <vector>

#include "base/error.h"
#include "disk/buffers.h"

namespace ckptfs {

class MemoryDisk final : public Disk {
 public:
  explicit MemoryDisk(uint64_t bytes, bool readOnly = false) : data_(bytes), readOnly_(readOnly) {}

  uint64_t bytes() const noexcept override { return data_.size(); }
  bool readOnly() const noexcept override { return readOnly_; }
  void read(uint64_t offset, std::span<std::byte> into) override {
    const auto lock = enter(offset, into.size());
    std::memcpy(into.data(), data_.data() + offset, into.size());
  }
  void writev(uint64_t offset, Buffers from) override {
    const uint64_t length = bytesOf(from);
    const auto lock = enter(offset, length);
    BufferReader(from).copy({data_.data() + offset, length});
    ++writes;
  }
  void flush() override {
    const auto lock = enter(0, 0);
    ++flushes;
  }
  void writeZeroes(uint64_t offset, uint64_t length, bool unmap) override {
    const auto lock = enter(offset, length);
    std::memset(data_.data() + offset, 0, length);
    unmap ? ++unmaps : ++zeroes;
  }
  void discard(uint64_t offset, uint64_t length) override {
    const auto lock = enter(offset, length);
    std::memset(data_.data() + offset, 0, length);
    ++discards;
  }

  /** Holds every request back until open(). */
  void close() {
    const std::lock_guard lock(mutex_);
    open_ = false;
  }
  void open() {
    const std::lock_guard lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }
  /** Returns once `count` requests are held back at the same time. */
  void awaitHeldBack(unsigned count) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return heldBack_ >= count; });
  }
  std::vector<std::byte> contents() {
    const std::lock_guard lock(mutex_);
    return data_;
  }
  void fill(uint64_t offset, uint64_t length, int value) {
    const std::lock_guard lock(mutex_);
    std::memset(data_.data() + offset, value, length);
  }

  std::atomic<bool> failing{false};
  std::atomic<int> writes{0}, flushes{0}, zeroes{0}, unmaps{0}, discards{0};

 private:
  std::unique_lock<std::mutex> enter(uint64_t offset, uint64_t length) {
    std::unique_lock lock(mutex_);
    ++heldBack_;
    changed_.notify_all();
    changed_.wait(lock, [this] { return open_; });
    --heldBack_;
    if (failing) throw Error(Code::io, "the disk failed");
    if (offset > data_.size() || length > data_.size() - offset)
      throw Error(Code::usage, "out of range");
    return lock;
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::byte> data_;
  const bool readOnly_;
  bool open_ = true;
  unsigned heldBack_ = 0;
};

}  // namespace ckptfs
