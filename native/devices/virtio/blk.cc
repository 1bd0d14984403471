#include "devices/virtio/blk.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "devices/state_fields.h"

namespace ckptfs {
namespace {

constexpr uint64_t kSegmentLimitFeature = 1u << 1;
constexpr uint64_t kSegmentsMaxFeature = 1u << 2;
constexpr uint64_t kReadOnlyFeature = 1u << 5;
constexpr uint64_t kBlockSizeFeature = 1u << 6;
constexpr uint64_t kFlushFeature = 1u << 9;
constexpr uint64_t kDiscardFeature = 1u << 13;
constexpr uint64_t kWriteZeroesFeature = 1u << 14;

uint64_t featuresOf(const Disk& disk) {
  constexpr uint64_t kAlways =
      kSegmentLimitFeature | kSegmentsMaxFeature | kBlockSizeFeature | kFlushFeature;
  return kAlways | (disk.readOnly() ? kReadOnlyFeature : kDiscardFeature | kWriteZeroesFeature);
}

}  // namespace

VirtioBlk::VirtioBlk(Disk& disk, std::string id, const GuestRam& ram, InterruptLine line,
                     WorkerPool& pool, std::function<void(const Error&)> onFailure)
    : VirtioMmio({.deviceId = kDeviceId, .features = featuresOf(disk)}, ram, std::move(line)),
      target_{disk, ram_, std::move(id), std::move(onFailure)},
      config_{.capacity = disk.bytes() / Disk::kSectorBytes,
              .segmentLimitBytes = BlkRequest::kSegmentLimitBytes,
              .segmentsMax = BlkRequest::kSegmentsMax,
              .geometry = {},
              .blockBytes = Disk::kSectorBytes,
              .topology = {},
              .writeback = 0,
              .unused0 = 0,
              .queues = 1,
              .discardSectorsMax = BlkRequest::kRangeSectorsMax,
              .discardRangesMax = BlkRequest::kRangesMax,
              .discardAlignment = 1,
              .zeroesSectorsMax = BlkRequest::kRangeSectorsMax,
              .zeroesRangesMax = BlkRequest::kRangesMax,
              .zeroesMayUnmap = 1,
              .unused1 = {}},
      pool_(pool) {
  if (disk.bytes() % Disk::kSectorBytes != 0)
    throw Error(Code::usage, "disk " + target_.id + " of " + std::to_string(disk.bytes()) +
                                 " bytes is not a whole number of 512-byte sectors");
}

VirtioBlk::~VirtioBlk() {
  hold();
  Lock lock(mutex_);
  closing_ = true;
  changed_.notify_all();
  settle(lock);
}

std::span<const std::byte> VirtioBlk::config() const noexcept {
  return std::as_bytes(std::span(&config_, 1));
}

// ---- Requests ----

void VirtioBlk::process(unsigned) noexcept {
  // A hostile driver may queue one chain many times.
  while (unread_.empty() && inFlight() < kQueueSizeMax) {
    DescriptorChain chain;
    const auto found = peek(0, chain);
    switch (take(found, chain)) {
      case VirtQueue::Peek::empty:
      case VirtQueue::Peek::unavailable:
        return;
      case VirtQueue::Peek::broken:
        return needReset();
      case VirtQueue::Peek::chain:
        queue(0).take();
        break;
    }
  }
}

VirtQueue::Peek VirtioBlk::take(VirtQueue::Peek found, DescriptorChain& chain) {
  if (found != VirtQueue::Peek::chain) return found;
  BlkRequest request(std::move(chain));
  if (!request.wellFormed()) return VirtQueue::Peek::broken;
  if (!request.accept(target_)) return VirtQueue::Peek::unavailable;
  taken_.push_back({std::move(request), {}});
  start(std::prev(taken_.end()));
  return found;
}

void VirtioBlk::takeAgain() noexcept {
  while (!unread_.empty()) {
    DescriptorChain chain;
    const auto found = chainAt(0, unread_.front(), chain);
    switch (take(found, chain)) {
      case VirtQueue::Peek::unavailable:
        return;
      case VirtQueue::Peek::chain:
        unread_.erase(unread_.begin());
        break;
      default:
        unread_.clear();
        return needReset();
    }
  }
}

void VirtioBlk::start(TakenList::iterator taken) {
  const bool writeThrough = !negotiated(kFlushFeature);
  taken->parked = false;
  pool_.submit([this, taken, writeThrough] { work(taken, writeThrough); });
}

void VirtioBlk::work(TakenList::iterator taken, bool writeThrough) noexcept {
  const bool executed = taken->request.execute(target_, writeThrough);
  Lock lock(mutex_);
  if (executed) {
    taken->executed = true;
    if (auto watcher = std::exchange(taken->watcher, nullptr); watcher.use_count() > 0) {
      lock.unlock();
      watcher.reset();
      lock.lock();
    }
    changed_.wait(lock, [this] { return !stopped() || closing_; });
  }
  if (executed && push(0, taken->request.head(), taken->request.written())) {
    taken_.erase(taken);  // unpins the disk
    look(0);              // the limit of requests in flight may have left some in the queue
  } else {
    taken->parked = true;
  }
  // With the mutex held: a waiting destructor must not go on before this is done.
  changed_.notify_all();
}

void VirtioBlk::resume() noexcept {
  if (!stopped()) takeAgain();
  for (auto taken = taken_.begin(); taken != taken_.end(); ++taken)
    if (taken->parked) start(taken);
  changed_.notify_all();
}

bool VirtioBlk::atWork() const noexcept {
  return std::any_of(taken_.begin(), taken_.end(), [](const Taken& t) { return !t.parked; });
}

bool VirtioBlk::waiting() const noexcept {
  return !unread_.empty() ||
         std::any_of(taken_.begin(), taken_.end(), [](const Taken& t) { return t.parked; });
}

void VirtioBlk::settle(Lock& lock) noexcept {
  changed_.wait(lock, [this] { return !atWork(); });
  std::vector<std::shared_ptr<void>> watchers;
  for (Taken& taken : taken_) watchers.push_back(std::move(taken.watcher));
  taken_.clear();
  unread_.clear();
  changed_.notify_all();
  lock.unlock();
  watchers.clear();
  lock.lock();
}

// ---- Checkpoints ----

bool VirtioBlk::waitDrained(std::chrono::milliseconds timeout) {
  Lock lock(mutex_);
  changed_.wait_for(lock, timeout, [this] { return !atWork(); });
  return idle();
}

bool VirtioBlk::hazard() const noexcept {
  for (auto reader = taken_.begin(); reader != taken_.end(); ++reader) {
    const Extent reads = reader->request.reads();
    if (reads.length == 0) continue;
    for (auto later = std::next(reader); later != taken_.end(); ++later)
      for (const Extent& change : later->request.changes())
        if (change.overlaps(reads)) return true;
  }
  return false;
}

bool VirtioBlk::waitHazards(std::chrono::milliseconds timeout) {
  Lock lock(mutex_);
  changed_.wait_for(lock, timeout, [this] { return waiting() || !hazard(); });
  return !waiting() && !hazard();
}

bool VirtioBlk::prepareMemory() const {
  const Lock lock(mutex_);
  return std::all_of(taken_.begin(), taken_.end(),
                     [this](const Taken& t) { return t.request.prepareMemory(ram_); });
}

void VirtioBlk::watchReads(const ReadWatcher& watch) {
  const Lock lock(mutex_);
  for (Taken& taken : taken_) {
    const Extent reads = taken.request.reads();
    if (reads.length == 0 || taken.executed) continue;
    PendingRead read{taken.request.disk(), reads.offset, {}};
    uint64_t left = reads.length;  // the status is not read from the disk
    for (const Segment& segment : taken.request.writable()) {
      const auto length = uint32_t(std::min<uint64_t>(segment.length, left));
      if (length > 0) read.memory.push_back({segment.address, length});
      left -= length;
    }
    taken.watcher = watch(std::move(read));
  }
}

// ---- State ----

std::unique_ptr<Frozen> VirtioBlk::freeze() const {
  const Lock lock(mutex_);
  State state{stillState(), target_.disk.bytes(), target_.disk.readOnly(), unread_};
  for (const Taken& taken : taken_) state.inFlight.push_back(taken.request.head());
  return std::make_unique<FrozenState<State>>(state);
}

void VirtioBlk::thaw(const Json& json) {
  State loaded;
  from_json(json, loaded);
  if (loaded.diskBytes != target_.disk.bytes() || loaded.readOnly != target_.disk.readOnly())
    throw Error(Code::damaged, "device state: disk " + target_.id + " was " +
                                   std::to_string(loaded.diskBytes) + " bytes" +
                                   (loaded.readOnly ? ", read-only" : "") +
                                   "; restore it with the disk of its checkpoint");
  const Lock lock(mutex_);
  adopt(std::move(loaded.virtio), loaded.inFlight.size());
  unread_ = std::move(loaded.inFlight);
}

void to_json(Json& json, const VirtioBlk::State& state) {
  json = Json{{"virtio", state.virtio},
              {"diskBytes", toHex(state.diskBytes)},
              {"readOnly", state.readOnly},
              {"inFlight", state.inFlight}};
}

void from_json(const Json& json, VirtioBlk::State& state) {
  from_json(field::at(json, "virtio"), state.virtio);
  state.diskBytes = field::hex(json, "diskBytes");
  state.readOnly = field::flag(json, "readOnly");
  const auto heads = field::numbers(json, "inFlight", kQueueSizeMax, UINT16_MAX);
  state.inFlight.assign(heads.begin(), heads.end());
}

}  // namespace ckptfs
