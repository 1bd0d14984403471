#include "memory/mprotect_engine.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <fstream>

#include "base/error.h"

namespace ckptfs {
namespace {

// What the rest of the process maps: Node with worker threads and JIT code takes some 1,000 to
// 2,000.
constexpr uint64_t kReservedMappings = 8192;
constexpr uint64_t kDefaultMaxMapCount = 65530;
// Page tables are dropped in such steps, so that other users of the address space get between.
constexpr uint64_t kPrepareStepBytes = 16 << 20;

uint64_t kernelLimit() {
  uint64_t limit = kDefaultMaxMapCount;
  std::ifstream("/proc/sys/vm/max_map_count") >> limit;
  return limit > 2 * kReservedMappings ? limit - kReservedMappings : limit / 2;
}

}  // namespace

// A view of n mappings has n - 1 borders. Three mappings are what one lifted block needs.
MprotectEngine::MprotectEngine(const GuestView& view, FaultSink* sink, uint64_t mappingLimit)
    : view_(view),
      traced_(view.blocks(), 0),
      borderLimit_(std::max<uint64_t>(mappingLimit == 0 ? kernelLimit() : mappingLimit, 3) - 1),
      registration_(view.base, view.bytes, sink) {}

// mprotect visits every page that the view has mapped: 13 ms for 512 MiB of 4 KiB pages, all of it
// in the pause. Without page tables it takes under 1 ms. The memfd keeps the contents; a page that
// is touched again costs the guest a minor fault (about 1 µs).
void MprotectEngine::prepareArm() noexcept {
  for (uint64_t at = 0; at < view_.bytes; at += kPrepareStepBytes)
    madvise(view_.base + at, std::min(kPrepareStepBytes, view_.bytes - at), MADV_DONTNEED);
}

void MprotectEngine::armWrite() {
  arm(PROT_READ);
}
void MprotectEngine::armAccess() {
  arm(PROT_NONE);
}

void MprotectEngine::arm(int protection) {
  const std::lock_guard lock(lock_);
  if (mprotect(view_.base, view_.bytes, protection) != 0) {
    const int err = errno;
    mprotect(view_.base, view_.bytes, PROT_READ | PROT_WRITE);
    throwErrno(err, "cannot trace guest memory");
  }
  std::fill(traced_.begin(), traced_.end(), 1);
  borders_ = 0;
}

uint64_t MprotectEngine::bordersOf(BlockRange run) const noexcept {
  uint64_t borders = 0;
  const uint64_t last = std::min<uint64_t>(run.end(), traced_.size() - 1);
  for (uint64_t i = std::max<uint64_t>(run.first, 1); i <= last; ++i)
    borders += traced_[i] != traced_[i - 1];
  return borders;
}

uint64_t MprotectEngine::bordersOfOpen(BlockRange run) const noexcept {
  return (run.first > 0 && traced_[run.first - 1]) +
         (run.end() < traced_.size() && traced_[run.end()]);
}

bool MprotectEngine::lift(BlockRange run) noexcept {
  const std::lock_guard lock(lock_);
  const auto begin = traced_.begin() + static_cast<ptrdiff_t>(run.first);
  const auto end = begin + static_cast<ptrdiff_t>(run.count);
  if (std::find(begin, end, 1) == end) return true;
  const uint64_t borders = borders_ - bordersOf(run) + bordersOfOpen(run);
  if (borders > borderLimit_ && borders > borders_) return false;
  const uint64_t offset = view_.geometry.offsetOf(run.first);
  if (mprotect(view_.base + offset, run.count * view_.geometry.blockBytes(),
               PROT_READ | PROT_WRITE) != 0) {
    // The rest of the process takes more mappings than was reserved: what is there now is the
    // limit.
    borderLimit_ = std::min(borderLimit_, borders_);
    return false;
  }
  std::fill(begin, end, 0);
  borders_ = borders;
  return true;
}

uint64_t MprotectEngine::mappings() const noexcept {
  const std::lock_guard lock(lock_);
  return borders_ + 1;
}

}  // namespace ckptfs
