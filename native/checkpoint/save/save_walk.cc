#include "checkpoint/save/save_walk.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace ckptfs {

using namespace format;

namespace {
constexpr uint64_t kHoleRun = 4096;  // blocks; so that a cancelled save ends soon
}

SaveWalk::SaveWalk(const GuestMemory& memory, std::span<const uint8_t> traced,
                   std::vector<uint8_t> accessed, bool suspend)
    : memory_(memory), traced_(traced), suspend_(suspend), order_(std::move(accessed)) {
  order_.resize(memory.blockCount());
  for (uint8_t& order : order_) order = (order != 0) != suspend;
}

void SaveWalk::start(const LateContents* late) {
  for (BlockId block = 0; block < order_.size(); ++block) {
    if (traced_[block] == 0) {
      order_[block] = kPasses;
    } else if (late != nullptr && late->awaits(block)) {
      order_[block] = kPasses;
      late_.push_back(block);
    }
  }
}

bool SaveWalk::inPass(BlockId block) const noexcept {
  return order_[block] == pass_ && memory_.state(block) == BlockState::traced;
}

/** A block that nobody handled was not written since the pause: a hole now was a hole then. */
bool SaveWalk::isHole(BlockId block) noexcept {
  if (block < extent_.first || block >= extent_.end()) {
    const Geometry& geometry = memory_.geometry();
    const auto at = static_cast<off_t>(geometry.offsetOf(block));
    off_t data = lseek(memory_.fd(), at, SEEK_DATA);
    if (data < 0)
      data = errno == ENXIO ? static_cast<off_t>(memory_.bytes()) : at;  // no more pages
    const BlockId first = geometry.blockOf(static_cast<uint64_t>(data));
    extentIsHole_ = first > block;
    if (extentIsHole_) {
      extent_ = {block, first - block};
    } else {
      const off_t hole = lseek(memory_.fd(), data, SEEK_HOLE);
      const uint64_t end = hole < 0 ? memory_.bytes() : static_cast<uint64_t>(hole);
      extent_ = {block, std::max<uint64_t>(1, geometry.blocksIn(end) - block)};
    }
  }
  return extentIsHole_;
}

SaveWalk::Step SaveWalk::next(uint64_t room) noexcept {
  const std::lock_guard lock(lock_);
  const BlockId end = order_.size();
  for (; pass_ < kPasses; ++pass_, at_ = 0) {
    while (at_ < end && !inPass(at_)) ++at_;
    if (at_ == end) continue;
    const bool hole = isHole(at_);
    const BlockId last = std::min({end, extent_.end(), at_ + (hole ? kHoleRun : room)});
    BlockRange run{at_, 1};
    while (run.end() < last && inPass(run.end())) ++run.count;
    at_ = run.end();
    return {run, hole, suspend_ && pass_ == 0 ? SegmentKind::hot : SegmentKind::cold};
  }
  return {{end, 0}, false, SegmentKind::cold};
}

}  // namespace ckptfs
