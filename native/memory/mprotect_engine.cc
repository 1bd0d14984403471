#include "memory/mprotect_engine.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <fstream>

#include "base/error.h"

namespace ckptfs {
namespace {

// What the rest of the process maps: Node with worker threads and JIT code takes some 1,000 to
// 2,000.
constexpr uint64_t kReservedMappings = 8192;
constexpr uint64_t kDefaultMaxMapCount = 65530;

uint64_t kernelLimit() {
  uint64_t limit = kDefaultMaxMapCount;
  std::ifstream("/proc/sys/vm/max_map_count") >> limit;
  return limit > 2 * kReservedMappings ? limit - kReservedMappings : limit / 2;
}

int flagsOf(Rights rights) {
  switch (rights) {
    case Rights::none:
      return PROT_NONE;
    case Rights::read:
      return PROT_READ;
    case Rights::all:
      break;
  }
  return PROT_READ | PROT_WRITE;
}

}  // namespace

// A view of n mappings has n - 1 borders. Three mappings are what one block by itself needs.
MprotectEngine::MprotectEngine(const GuestView& view, FaultSink* sink, uint64_t mappingLimit)
    : view_(view),
      rights_(view.blocks(), Rights::all),
      borderLimit_(std::max<uint64_t>(mappingLimit == 0 ? kernelLimit() : mappingLimit, 3) - 1),
      registration_(SIGSEGV, view.base, view.bytes, sink) {}

// memchr and memrchr instead of loops: this is part of the pause, 256 KiB of rights at 8 GiB.
BlockId MprotectEngine::find(BlockId from, BlockId end, Rights rights) const noexcept {
  const void* const found = std::memchr(&rights_[from], static_cast<int>(rights), end - from);
  return found == nullptr ? end
                          : static_cast<BlockId>(static_cast<const Rights*>(found) - &rights_[0]);
}

BlockId MprotectEngine::findOther(BlockId from, BlockId end, Rights rights) const noexcept {
  while (from < end && rights_[from] == rights) ++from;
  return from;
}

uint64_t MprotectEngine::bordersOf(BlockRange run) const noexcept {
  constexpr uint64_t kOnes = 0x0101010101010101;
  uint64_t borders = 0;
  const uint64_t last = std::min<uint64_t>(run.end(), rights_.size() - 1);
  uint64_t block = std::max<uint64_t>(run.first, 1);
  for (; block + 8 <= last + 1; block += 8) {
    uint64_t here, before;
    std::memcpy(&here, &rights_[block], 8);
    std::memcpy(&before, &rights_[block - 1], 8);
    borders += static_cast<uint64_t>(
        std::popcount(((here ^ before) + 0x7f * kOnes) & 0x80 * kOnes));  // lanes that differ
  }
  for (; block <= last; ++block) borders += rights_[block] != rights_[block - 1];
  return borders;
}

uint64_t MprotectEngine::bordersAround(BlockRange run, Rights rights) const noexcept {
  return (run.first > 0 && rights_[run.first - 1] != rights) +
         (run.end() < rights_.size() && rights_[run.end()] != rights);
}

bool MprotectEngine::change(BlockRange run, Rights rights) noexcept {
  const uint64_t borders = borders_ - bordersOf(run) + bordersAround(run, rights);
  if (borders > borderLimit_ && borders > borders_) {
    errno = ENOMEM;
    return false;
  }
  if (mprotect(view_.base + view_.geometry.offsetOf(run.first),
               run.count * view_.geometry.blockBytes(), flagsOf(rights)) != 0) {
    const int err = errno;
    restore(run);
    // The rest of the process takes more mappings than was reserved: what is there now is the
    // limit.
    borderLimit_ = std::min<uint64_t>(borderLimit_, borders_);
    errno = err;
    return false;
  }
  std::fill_n(rights_.begin() + static_cast<ptrdiff_t>(run.first), run.count, rights);
  borders_ = borders;
  return true;
}

// A call over several mappings may fail half way, and a block that lets more through than rights_
// says would lose writes. It was like this a moment ago, so it can only be short of memory.
void MprotectEngine::restore(BlockRange run) noexcept {
  for (BlockId first = run.first; first < run.end();) {
    const BlockId end = findOther(first, run.end(), rights_[first]);
    while (mprotect(view_.base + view_.geometry.offsetOf(first),
                    (end - first) * view_.geometry.blockBytes(), flagsOf(rights_[first])) != 0)
      usleep(1000);
    first = end;
  }
}

// One call from the first block that lets writes through to the last one, over those between that
// do not: the kernel passes over mappings that have the protection already, which is cheaper than a
// call for each run.
bool MprotectEngine::protect(BlockRange run, Rights rights) noexcept {
  if (rights == Rights::none) return change(run, Rights::none);
  for (BlockId first = run.first;;) {
    first = find(first, run.end(), Rights::all);
    if (first == run.end()) return true;
    const BlockId next = find(first, run.end(), Rights::none);
    const auto* const last = static_cast<const Rights*>(
        memrchr(&rights_[first], static_cast<int>(Rights::all), next - first));
    if (!change({first, static_cast<uint64_t>(last - &rights_[first]) + 1}, Rights::read))
      return false;
    first = next;
    if (first == run.end()) return true;
  }
}

bool MprotectEngine::permit(BlockRange run, Rights rights) noexcept {
  if (rights == Rights::all)
    return findOther(run.first, run.end(), Rights::all) == run.end() || change(run, Rights::all);
  for (BlockId first = find(run.first, run.end(), Rights::none); first < run.end();) {
    const BlockId end = findOther(first, run.end(), Rights::none);
    if (!change({first, end - first}, Rights::read)) return false;
    if (end == run.end()) break;
    first = find(end, run.end(), Rights::none);
  }
  return true;
}

}  // namespace ckptfs
