#include "checkpoint/save/staging.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <new>

#include "base/error.h"

namespace ckptfs {

namespace {
constexpr uint64_t kGrowthBytes = 4 << 20;
}

StagingBuffer::StagingBuffer(const Geometry& geometry, std::byte* raw)
    : blockBytes_(geometry.blockBytes()),
      capacity_(geometry.blocksPerIoBlock),
      ids_(std::make_unique<BlockId[]>(capacity_)),
      raw_(raw) {}

void StagingBuffer::add(BlockId block, const std::byte* contents) noexcept {
  std::memcpy(raw_ + count_ * blockBytes_, contents, blockBytes_);
  ids_[count_++] = block;
}

StagingPool::Chunk::Chunk(uint64_t bytes) : bytes_(bytes) {
  void* const memory =
      mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throwErrno(errno, "cannot allocate staging buffers");
  memory_ = static_cast<std::byte*>(memory);
  madvise(memory, bytes, MADV_HUGEPAGE);  // where there are huge pages; small ones do as well
  if (madvise(memory, bytes, MADV_POPULATE_WRITE) != 0) std::memset(memory, 0, bytes);
}

StagingPool::Chunk::~Chunk() {
  if (memory_ != nullptr) munmap(memory_, bytes_);
}

StagingPool::StagingPool(const Geometry& geometry, size_t least, uint64_t bytes,
                         uint64_t limitBytes)
    : geometry_(geometry),
      limit_(std::max<size_t>(
          {least, bytes / geometry.ioBlockBytes(), limitBytes / geometry.ioBlockBytes()})),
      step_(std::max<size_t>(1, kGrowthBytes / geometry.ioBlockBytes())) {
  all_.reserve(limit_);
  add(std::max<size_t>(least, bytes / geometry.ioBlockBytes()));
}

/** Called by one thread at a time, which does not hold the lock. */
void StagingPool::add(size_t buffers) {
  Chunk chunk(buffers * geometry_.ioBlockBytes());
  std::vector<std::unique_ptr<StagingBuffer>> more;
  for (size_t i = 0; i < buffers; ++i)
    more.push_back(
        std::make_unique<StagingBuffer>(geometry_, chunk.memory() + i * geometry_.ioBlockBytes()));
  const std::lock_guard lock(lock_);
  chunks_.push_back(std::move(chunk));
  for (auto& buffer : more) {
    buffer->next_ = free_;
    free_ = buffer.get();
    ++freeCount_;
    all_.push_back(std::move(buffer));  // within its reserve
  }
  freed_.notify_all();
}

StagingBuffer* StagingPool::popFree() noexcept {
  StagingBuffer* const buffer = free_;
  if (buffer == nullptr) return nullptr;
  free_ = buffer->next_;
  --freeCount_;
  buffer->clear();
  return buffer;
}

StagingBuffer* StagingPool::popFull() noexcept {
  StagingBuffer* const buffer = oldest_;
  if (buffer != nullptr) oldest_ = buffer->next_;
  return buffer;
}

StagingBuffer* StagingPool::take() noexcept {
  std::unique_lock lock(lock_);
  StagingBuffer* buffer = popFree();
  starved_ += buffer == nullptr;
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

StagingBuffer* StagingPool::nextFull(std::chrono::nanoseconds timeout,
                                     uint64_t interrupts) noexcept {
  std::unique_lock lock(lock_);
  if (oldest_ == nullptr && timeout.count() > 0)
    filled_.wait_for(lock, timeout,
                     [&] { return oldest_ != nullptr || closed_ || interrupts_ != interrupts; });
  return popFull();
}

StagingBuffer* StagingPool::lastFull() noexcept {
  std::unique_lock lock(lock_);
  filled_.wait(lock, [this] { return oldest_ != nullptr || closed_; });
  return popFull();
}

void StagingPool::release(StagingBuffer* buffer) noexcept {
  const std::lock_guard lock(lock_);
  buffer->next_ = free_;
  free_ = buffer;
  ++freeCount_;
  freed_.notify_one();
}

void StagingPool::grow() noexcept {
  size_t more = 0;
  {
    const std::lock_guard lock(lock_);
    if (growing_ || closed_ || freeCount_ * 4 > all_.size()) return;
    more = std::min(step_, limit_ - all_.size());
    if (more == 0) return;
    growing_ = true;
  }
  try {
    add(more);
  } catch (const std::exception&) {
    // The pool stays as it is: vCPU threads wait a little longer.
  }
  const std::lock_guard lock(lock_);
  growing_ = false;
}

void StagingPool::interrupt() noexcept {
  const std::lock_guard lock(lock_);
  interrupts_.fetch_add(1, std::memory_order_release);
  filled_.notify_all();
}

void StagingPool::close() noexcept {
  const std::lock_guard lock(lock_);
  closed_ = true;
  filled_.notify_all();
}

void StagingPool::giveBack() noexcept {
  const std::lock_guard lock(lock_);
  free_ = nullptr;
  freeCount_ = 0;
  all_.clear();
  chunks_.clear();
}

StagingPool::Counters StagingPool::counters() const noexcept {
  const std::lock_guard lock(lock_);
  return {all_.size(), starved_};
}

}  // namespace ckptfs
