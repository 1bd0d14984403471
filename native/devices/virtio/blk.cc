#include "devices/virtio/blk.h"

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
  settle(lock);
}

std::span<const std::byte> VirtioBlk::config() const noexcept {
  return std::as_bytes(std::span(&config_, 1));
}

// ---- Requests ----

void VirtioBlk::process(unsigned) noexcept {
  DescriptorChain chain;
  while (inFlight_ < kQueueSizeMax) {  // a hostile driver may queue one chain many times
    switch (peek(0, chain)) {
      case VirtQueue::Peek::empty:
      case VirtQueue::Peek::unavailable:
        return;
      case VirtQueue::Peek::broken:
        return needReset();
      case VirtQueue::Peek::chain:
        break;
    }
    auto request = std::make_shared<BlkRequest>(std::move(chain));
    if (!request->wellFormed()) return needReset();
    queue(0).take();
    ++inFlight_;
    start(std::move(request));
  }
}

void VirtioBlk::start(std::shared_ptr<BlkRequest> request) {
  const bool writeThrough = !negotiated(kFlushFeature);
  pool_.submit([this, request = std::move(request), writeThrough] { work(request, writeThrough); });
}

void VirtioBlk::work(std::shared_ptr<BlkRequest> request, bool writeThrough) noexcept {
  const bool executed = request->execute(target_, writeThrough);
  const Lock lock(mutex_);
  if (executed && push(0, request->head(), request->written())) {
    --inFlight_;
    look(0);  // the limit of requests in flight may have left some in the queue
  } else {
    parked_.push_back(std::move(request));
  }
  // With the mutex held: a waiting destructor must not go on before this is done.
  changed_.notify_all();
}

void VirtioBlk::resume() noexcept {
  for (auto& request : std::exchange(parked_, {})) start(std::move(request));
}

void VirtioBlk::settle(Lock& lock) noexcept {
  changed_.wait(lock, [this] { return allParked(); });
  inFlight_ = 0;
  parked_.clear();
  changed_.notify_all();
}

bool VirtioBlk::waitDrained(std::chrono::milliseconds timeout) {
  Lock lock(mutex_);
  changed_.wait_for(lock, timeout, [this] { return allParked(); });
  return inFlight_ == 0;
}

// ---- State ----

std::unique_ptr<Frozen> VirtioBlk::freeze() const {
  return std::make_unique<FrozenState<State>>(
      State{drainedState(), target_.disk.bytes(), target_.disk.readOnly()});
}

void VirtioBlk::thaw(const Json& json) {
  State loaded;
  from_json(json, loaded);
  if (loaded.diskBytes != target_.disk.bytes() || loaded.readOnly != target_.disk.readOnly())
    throw Error(Code::damaged, "device state: disk " + target_.id + " was " +
                                   std::to_string(loaded.diskBytes) + " bytes" +
                                   (loaded.readOnly ? ", read-only" : "") +
                                   "; restore it with the disk of its checkpoint");
  adopt(std::move(loaded.virtio));
}

void to_json(Json& json, const VirtioBlk::State& state) {
  json = Json{{"virtio", state.virtio},
              {"diskBytes", toHex(state.diskBytes)},
              {"readOnly", state.readOnly}};
}

void from_json(const Json& json, VirtioBlk::State& state) {
  from_json(field::at(json, "virtio"), state.virtio);
  state.diskBytes = field::hex(json, "diskBytes");
  state.readOnly = field::flag(json, "readOnly");
}

}  // namespace ckptfs
