#include "memory/guest_memory.h"

#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <optional>

#include "memory/block_traces.h"
#include "memory/fault_thread.h"
#include "memory/guest_mapping.h"
#include "memory/memory_file.h"

namespace ckptfs {

struct GuestMemory::Impl {
  Impl(uint64_t bytes_, const Geometry& geometry_, const std::string& traceEngine,
       uint64_t mappingLimit)
      : bytes((validate(geometry_, bytes_), bytes_)),
        geometry(geometry_),
        file(bytes_),
        host(file.fd(), bytes_) {
    if (traceEngine != kSoftEngine) guest.emplace(file.fd(), bytes);
    traces.emplace(GuestView{guestBase(), bytes, geometry, file.fd()}, traceEngine, mappingLimit);
  }

  std::byte* guestBase() const noexcept { return guest ? guest->base() : host.base(); }
  bool inside(uint64_t offset, uint64_t length) const noexcept {
    return length <= bytes && offset <= bytes - length;
  }

  const uint64_t bytes;
  const Geometry geometry;
  MemoryFile file;
  GuestMapping host;
  std::optional<GuestMapping> guest;
  std::optional<BlockTraces> traces;  // last: takes faults as soon as it stands
};

GuestMemory::GuestMemory(uint64_t bytes, const Geometry& geometry, const std::string& traceEngine,
                         uint64_t mappingLimit)
    : impl_(std::make_unique<Impl>(bytes, geometry, traceEngine, mappingLimit)),
      soft_(traceEngine == kSoftEngine),
      blockShift_(std::has_single_bit(geometry.blockBytes())
                      ? static_cast<unsigned>(std::countr_zero(geometry.blockBytes()))
                      : 0),
      blockBytes_(geometry.blockBytes()),
      states_(impl_->traces->states().data()),
      accessed_(std::make_unique<std::atomic<uint8_t>[]>(geometry.blocksIn(bytes))) {}
GuestMemory::~GuestMemory() = default;

uint64_t GuestMemory::bytes() const noexcept {
  return impl_->bytes;
}
const Geometry& GuestMemory::geometry() const noexcept {
  return impl_->geometry;
}
uint64_t GuestMemory::blockCount() const noexcept {
  return impl_->traces->states().count();
}
std::byte* GuestMemory::guestView() const noexcept {
  return impl_->guestBase();
}
std::byte* GuestMemory::hostView() const noexcept {
  return impl_->host.base();
}
int GuestMemory::fd() const noexcept {
  return impl_->file.fd();
}

void GuestMemory::attachThread() {
  attachFaultThread();
}
unsigned GuestMemory::threadIndex() noexcept {
  return faultThreadIndex();
}
bool GuestMemory::runGuarded(const std::function<void()>& function) noexcept {
  return ckptfs::runGuarded(function);
}

void GuestMemory::admit(BlockId block, bool write) noexcept {
  impl_->traces->admit(block, write);
}

void GuestMemory::harvestAccessed(std::span<uint8_t> into) noexcept {
  for (BlockId block = 0; block < std::min<uint64_t>(into.size(), blockCount()); ++block) {
    std::atomic<uint8_t>& note = accessed_[block];
    if (note.load(std::memory_order_relaxed) != 0)
      into[block] |= note.exchange(0, std::memory_order_relaxed);
  }
}

bool GuestMemory::prepareRead(uint64_t offset, uint64_t length) noexcept {
  if (!impl_->inside(offset, length)) return false;
  if (!impl_->traces->loadsPending()) return true;
  return impl_->traces->prepare(impl_->geometry.covering(offset, length), false);
}

bool GuestMemory::prepareWrite(uint64_t offset, uint64_t length) noexcept {
  return impl_->inside(offset, length) &&
         impl_->traces->prepare(impl_->geometry.covering(offset, length), true);
}

void GuestMemory::track(bool on) noexcept {
  impl_->traces->track(on);
}
uint64_t GuestMemory::dirtyBlocks() const noexcept {
  return impl_->traces->states().countDirty();
}

void GuestMemory::armAhead(BlockRange run) noexcept {
  impl_->traces->armAhead(run);
}
void GuestMemory::armWrite(TraceClient* saver, bool keepBase, std::span<uint8_t> traced) {
  impl_->traces->armWrite(saver, keepBase, traced);
}
bool GuestMemory::settleSave(BlockRange run) noexcept {
  return impl_->traces->settleSave(run);
}
void GuestMemory::endSave(bool ok) noexcept {
  impl_->traces->endSave(ok);
}

void GuestMemory::armAccess(TraceClient* loader) {
  impl_->traces->armAccess(loader);
}
bool GuestMemory::settleLoad(BlockRange run) noexcept {
  return impl_->traces->settleLoad(run);
}
void GuestMemory::endLoad() noexcept {
  impl_->traces->endLoad();
}

BlockState GuestMemory::state(BlockId block) const noexcept {
  return impl_->traces->states().at(block);
}

bool GuestMemory::isHole(BlockId block) const noexcept {
  const uint64_t begin = impl_->geometry.offsetOf(block);
  const off_t data = lseek(impl_->file.fd(), static_cast<off_t>(begin), SEEK_DATA);
  if (data < 0) return errno == ENXIO;  // no data up to the end
  return static_cast<uint64_t>(data) >= begin + impl_->geometry.blockBytes();
}

void GuestMemory::onFailure(std::function<void()> callback) {
  impl_->traces->onFailure(std::move(callback));
}
void GuestMemory::retryFailed() noexcept {
  impl_->traces->retryFailed();
}
void GuestMemory::abandon() noexcept {
  impl_->traces->abandon();
}

GuestMemory::Counters GuestMemory::counters() const noexcept {
  const BlockTraces& traces = *impl_->traces;
  return {traces.faults(), traces.waits(), traces.mappings(), traces.widened()};
}

}  // namespace ckptfs
