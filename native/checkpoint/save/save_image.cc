#include "checkpoint/save/save_image.h"

#include <algorithm>

#include "checkpoint/save/live_bytes.h"

namespace ckptfs {

using namespace format;

namespace {

// What is kept for late contents may come after the flush: it is asked for again after so long.
constexpr std::chrono::milliseconds kFlushAgain(10);

/** Nobody has written to a block in these states since the pause. */
bool isUnwritten(BlockState state) noexcept {
  return state == BlockState::traced || state == BlockState::saving || state == BlockState::saved;
}

}  // namespace

SaveImage::SaveImage(GuestMemory& memory, const SaveOutput& output,
                     std::shared_ptr<const MemoryImage> base, LateContents* late,
                     std::function<void()> flush)
    : memory_(memory),
      output_(output),
      base_(std::move(base)),
      late_(late),
      flush_(std::move(flush)) {}

void SaveImage::read(uint64_t offset, std::span<std::byte> into) const {
  const Geometry& geometry = memory_.geometry();
  while (!into.empty()) {
    const BlockId block = geometry.blockOf(offset);
    const uint64_t within = offset - geometry.offsetOf(block);
    const auto part = into.first(std::min<uint64_t>(into.size(), geometry.blockBytes() - within));
    if (output_.rows().traced(block)) {
      readBlock(block, within, part);
    } else {
      throwIfFailed();
      base_->read(offset, part);
    }
    offset += part.size();
    into = into.subspan(part.size());
  }
}

void SaveImage::readBlock(BlockId block, uint64_t within, std::span<std::byte> into) const {
  if (late_ != nullptr && late_->awaits(block)) late_->wait(block);
  for (;;) {
    throwIfFailed();
    if (readMemory(block, within, into)) return;
    if (output_.rows().complete(block)) return output_.read(block, within, into);
    flush_();
    output_.awaitRow(block, kFlushAgain);
  }
}

bool SaveImage::readMemory(BlockId block, uint64_t within,
                           std::span<std::byte> into) const noexcept {
  if (!isUnwritten(memory_.state(block))) return false;
  if (memory_.isHole(block))  // reading it would allocate its pages
    std::fill(into.begin(), into.end(), std::byte{0});
  else
    liveCopy(into.data(), memory_.hostView() + memory_.geometry().offsetOf(block) + within,
             into.size());
  // None of these states comes back once left, until the traces have ended.
  return isUnwritten(memory_.state(block)) && tracing_.load(std::memory_order_relaxed) &&
         !failed_.load(std::memory_order_relaxed);
}

void SaveImage::fail(const Error& error) {
  const std::lock_guard lock(lock_);
  if (!error_) error_ = error;
  failed_.store(true, std::memory_order_release);
}

void SaveImage::throwIfFailed() const {
  if (!failed_.load(std::memory_order_acquire)) return;
  const std::lock_guard lock(lock_);
  throw Error(*error_);
}

}  // namespace ckptfs
