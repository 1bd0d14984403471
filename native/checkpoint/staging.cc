#include "checkpoint/staging.h"

#include <algorithm>
#include <cstring>
#include <new>

namespace ckptfs {

namespace {
constexpr uint64_t kGrowthBytes = 32 << 20;
}

StagingBuffer::StagingBuffer(const Geometry& geometry)
    : blockBytes_(geometry.blockBytes()),
      capacity_(geometry.blocksPerIoBlock),
      ids_(std::make_unique<BlockId[]>(capacity_)),
      raw_(std::make_unique<std::byte[]>(geometry.ioBlockBytes())) {}

void StagingBuffer::add(BlockId block, const std::byte* contents) noexcept {
  std::memcpy(raw_.get() + count_ * blockBytes_, contents, blockBytes_);
  ids_[count_++] = block;
}

StagingPool::StagingPool(const Geometry& geometry, size_t buffers)
    : geometry_(geometry),
      limit_(buffers + std::max<size_t>(buffers, kGrowthBytes / geometry.ioBlockBytes())) {
  all_.reserve(limit_);
  for (size_t i = 0; i < buffers; ++i) {
    StagingBuffer& buffer = *all_.emplace_back(std::make_unique<StagingBuffer>(geometry));
    buffer.next_ = free_;
    free_ = &buffer;
  }
}

StagingBuffer* StagingPool::popFree() noexcept {
  StagingBuffer* const buffer = free_;
  if (buffer == nullptr) {
    starved_ = true;
    return nullptr;
  }
  free_ = buffer->next_;
  buffer->clear();
  return buffer;
}

StagingBuffer* StagingPool::take() noexcept {
  std::unique_lock lock(lock_);
  StagingBuffer* buffer = popFree();
  while (buffer == nullptr) {
    freed_.wait(lock);
    buffer = popFree();
  }
  return buffer;
}

StagingBuffer* StagingPool::tryTake() noexcept {
  const std::lock_guard lock(lock_);
  return popFree();
}

void StagingPool::submit(StagingBuffer* buffer) noexcept {
  const std::lock_guard lock(lock_);
  buffer->next_ = nullptr;
  (oldest_ == nullptr ? oldest_ : newest_->next_) = buffer;
  newest_ = buffer;
  filled_.notify_one();
}

StagingBuffer* StagingPool::nextFull() noexcept {
  std::unique_lock lock(lock_);
  filled_.wait(lock, [this] { return oldest_ != nullptr || closed_; });
  StagingBuffer* const buffer = oldest_;
  if (buffer != nullptr) oldest_ = buffer->next_;
  return buffer;
}

void StagingPool::release(StagingBuffer* buffer) noexcept {
  std::unique_ptr<StagingBuffer> more;
  std::unique_lock lock(lock_);
  const bool grow = starved_ && all_.size() < limit_;
  starved_ = false;
  if (grow) {
    lock.unlock();
    try {
      more = std::make_unique<StagingBuffer>(geometry_);
    } catch (const std::bad_alloc&) {
      // The pool stays as it is: faults wait a little longer.
    }
    lock.lock();
  }
  if (more != nullptr) {
    more->next_ = free_;
    free_ = more.get();
    all_.push_back(std::move(more));  // within its reserve
  }
  buffer->next_ = free_;
  free_ = buffer;
  freed_.notify_all();
}

void StagingPool::close() noexcept {
  const std::lock_guard lock(lock_);
  closed_ = true;
  filled_.notify_all();
}

}  // namespace ckptfs
