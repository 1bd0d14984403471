#include "checkpoint/restore/io_buffer_pool.h"

#include <algorithm>

namespace ckptfs {

IoBufferPool::IoBufferPool(size_t buffers, uint64_t bufferBytes)
    : memory_(std::max(buffers, kMinBuffers) * bufferBytes),
      buffers_(std::max(buffers, kMinBuffers)) {
  for (size_t i = 0; i < buffers_.size(); ++i)
    buffers_[i].bytes_ = {memory_.data() + i * bufferBytes, bufferBytes};
}

IoBufferPool::Buffer* IoBufferPool::idle() noexcept {
  Buffer* oldest = nullptr;
  for (Buffer& buffer : buffers_)
    if (buffer.state_ == Buffer::State::loaded && buffer.pins_ == 0 &&
        (oldest == nullptr || buffer.used_ < oldest->used_))
      oldest = &buffer;
  return oldest;
}

IoBufferPool::Buffer& IoBufferPool::acquire(uint32_t ioBlock, bool& mustLoad) noexcept {
  std::unique_lock lock(lock_);
  for (;;) {
    Buffer* free = nullptr;
    Buffer* found = nullptr;
    for (Buffer& buffer : buffers_) {
      if (buffer.state_ == Buffer::State::free)
        free = &buffer;
      else if (buffer.ioBlock_ == ioBlock && buffer.state_ != Buffer::State::dropped)
        found = &buffer;
    }
    if (found != nullptr && found->state_ == Buffer::State::loaded) {
      ++found->pins_;
      found->used_ = ++clock_;
      mustLoad = false;
      return *found;
    }
    if (found == nullptr && free == nullptr) free = idle();
    if (found == nullptr && free != nullptr) {
      free->ioBlock_ = ioBlock;
      free->state_ = Buffer::State::loading;
      free->pins_ = 1;
      free->used_ = ++clock_;
      mustLoad = true;
      return *free;
    }
    changed_.wait(lock);
  }
}

void IoBufferPool::loaded(Buffer& buffer, bool ok) noexcept {
  const std::lock_guard lock(lock_);
  buffer.state_ = ok ? Buffer::State::loaded : Buffer::State::free;
  if (!ok) buffer.pins_ = 0;
  changed_.notify_all();
}

IoBufferPool::Buffer* IoBufferPool::acquireIdle() noexcept {
  const std::lock_guard lock(lock_);
  Buffer* const buffer = idle();
  if (buffer != nullptr) buffer->pins_ = 1;
  return buffer;
}

void IoBufferPool::waitIdle(std::chrono::nanoseconds longest) noexcept {
  std::unique_lock lock(lock_);
  changed_.wait_for(lock, longest, [this] { return idle() != nullptr; });
}

void IoBufferPool::release(Buffer& buffer, bool drop) noexcept {
  const std::lock_guard lock(lock_);
  if (drop) buffer.state_ = Buffer::State::dropped;
  if (--buffer.pins_ > 0) return;
  if (buffer.state_ == Buffer::State::dropped) buffer.state_ = Buffer::State::free;
  changed_.notify_all();
}

}  // namespace ckptfs
