#include "disk/fault_disk.h"

#include <algorithm>
#include <thread>

#include "base/error.h"
#include "disk/buffers.h"

namespace ckptfs {

// ---- Faults ----

unsigned Faults::close(unsigned kinds, Extent where) {
  const std::lock_guard lock(mutex_);
  gates_.push_back({++next_, kinds, where});
  return next_;
}

void Faults::open(unsigned gate) {
  const std::lock_guard lock(mutex_);
  gates_.remove_if([&](const Gate& g) { return g.number == gate; });
  changed_.notify_all();
}

void Faults::openAll() {
  const std::lock_guard lock(mutex_);
  gates_.clear();
  changed_.notify_all();
}

bool Faults::awaitHeld(unsigned gate, unsigned count, std::chrono::milliseconds timeout) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, timeout, [&] {
    return std::any_of(gates_.begin(), gates_.end(),
                       [&](const Gate& g) { return g.number == gate && g.held >= count; });
  });
}

void Faults::delay(std::chrono::milliseconds delay) {
  const std::lock_guard lock(mutex_);
  delay_ = delay;
}

void Faults::fail(unsigned kinds, uint64_t skip, uint64_t count, bool cut) {
  const std::lock_guard lock(mutex_);
  failure_ = {kinds, skip, count, cut};
}

Faults::Fate Faults::enter(Kinds kind, Extent where) {
  std::unique_lock lock(mutex_);
  for (;;) {
    const auto gate = std::find_if(gates_.begin(), gates_.end(), [&](const Gate& g) {
      return (g.kinds & kind) && g.where.overlaps(where);
    });
    if (gate == gates_.end()) break;
    const unsigned number = gate->number;
    ++gate->held;  // goes with the gate
    changed_.notify_all();
    changed_.wait(lock, [&] {
      return std::none_of(gates_.begin(), gates_.end(),
                          [&](const Gate& g) { return g.number == number; });
    });
  }
  Fate fate = Fate::good;
  if ((failure_.kinds & kind) && failure_.count > 0) {
    if (failure_.skip > 0) {
      --failure_.skip;
    } else {
      --failure_.count;
      fate = failure_.cut ? Fate::cut : Fate::bad;
    }
  }
  const auto delay = delay_;
  lock.unlock();
  if (delay.count() > 0) std::this_thread::sleep_for(delay);
  return fate;
}

// ---- FaultDisk ----

namespace {

[[noreturn]] void failRequest() {
  throw Error(Code::io, "the disk fails this request because it was told to");
}

}  // namespace

uint64_t FaultDisk::enter(Faults::Kinds kind, uint64_t offset, uint64_t length) {
  switch (faults_->enter(kind, {offset, length})) {
    case Faults::Fate::good:
      return length;
    case Faults::Fate::cut:
      return length / 2 / kSectorBytes * kSectorBytes;
    case Faults::Fate::bad:
      break;
  }
  failRequest();
}

void FaultDisk::read(uint64_t offset, std::span<std::byte> into) {
  const uint64_t length = enter(Faults::kRead, offset, into.size());
  disk_->read(offset, into.first(length));
  if (length != into.size()) failRequest();
}

void FaultDisk::writev(uint64_t offset, Buffers from) {
  const uint64_t all = bytesOf(from), length = enter(Faults::kWrite, offset, all);
  disk_->writev(offset, BufferReader(from).take(length));
  if (length != all) failRequest();
}

void FaultDisk::flush() {
  if (faults_->enter(Faults::kFlush, Faults::kEverywhere) != Faults::Fate::good) failRequest();
  disk_->flush();
}

void FaultDisk::writeZeroes(uint64_t offset, uint64_t length, bool unmap) {
  const uint64_t first = enter(Faults::kWrite, offset, length);
  disk_->writeZeroes(offset, first, unmap);
  if (first != length) failRequest();
}

void FaultDisk::discard(uint64_t offset, uint64_t length) {
  const uint64_t first = enter(Faults::kWrite, offset, length);
  disk_->discard(offset, first);
  if (first != length) failRequest();
}

std::shared_ptr<Disk> FaultDisk::pin(std::span<const Extent> changes) {
  return std::make_shared<FaultDisk>(disk_->pin(changes), faults_);
}

}  // namespace ckptfs
