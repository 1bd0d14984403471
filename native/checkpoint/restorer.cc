#include "checkpoint/restorer.h"

#include <algorithm>
#include <chrono>

#include "base/thread_name.h"
#include "checkpoint/segment.h"

namespace ckptfs {

using namespace format;

namespace {
// Zero blocks are settled in runs of at most so many, between which stop is looked at.
constexpr uint64_t kZeroRun = 512;
}  // namespace

Restorer::Restorer(GuestMemory& memory, const MemoryImage& image, size_t buffers)
    : memory_(memory),
      image_(image),
      pool_(buffers, maxIoBlockBytes(image.map().geometry)),
      unplaced_(std::make_unique<std::atomic<uint32_t>[]>(image.map().ioBlocks.size())) {
  if (memory.bytes() != image.bytes() || memory.geometry() != image.map().geometry)
    throw Error(Code::usage, "guest memory is not of the checkpoint's size and geometry");
  for (const MapBlock& row : image.map().blocks)
    if (row.codec != Codec::zero) unplaced_[row.ioBlock].fetch_add(1, std::memory_order_relaxed);
}

Restorer::~Restorer() {
  stop();
}

void Restorer::stop() {
  {
    const std::lock_guard lock(stateLock_);
    stop_ = true;
    stateChanged_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
}

void Restorer::record(const BlockFault& fault) noexcept {
  const std::lock_guard lock(stateLock_);
  if (!fault_) fault_ = fault;
}

bool Restorer::handle(BlockId block, Cause cause) noexcept {
  const MapBlock& row = image_.map().blocks[block];
  const uint64_t blockBytes = memory_.geometry().blockBytes();
  const std::span raw(memory_.hostView() + memory_.geometry().offsetOf(block), blockBytes);
  if (row.codec == Codec::zero) {
    if (!memory_.isHole(block)) std::fill(raw.begin(), raw.end(), std::byte{0});
    zero_.fetch_add(1, std::memory_order_relaxed);
    return true;
  }
  BlockFault fault;
  bool mustLoad = false;
  IoBufferPool::Buffer& buffer = pool_.acquire(row.ioBlock, mustLoad);
  if (mustLoad) {
    const bool loaded = image_.loadIoBlock(row.ioBlock, block, buffer.bytes(), fault);
    pool_.loaded(buffer, loaded);
    if (!loaded) {
      record(fault);
      return false;
    }
  }
  const bool placed = image_.place(block, buffer.bytes(), raw, fault);
  if (!placed) record(fault);
  const bool last = placed && unplaced_[row.ioBlock].fetch_sub(1, std::memory_order_acq_rel) == 1;
  pool_.release(buffer, last || !placed);  // a damaged one is read again by a retry
  if (!placed) return false;
  (cause == Cause::demand ? demand_ : prefetched_).fetch_add(1, std::memory_order_relaxed);
  return true;
}

/** Places what is absent of the IO block in a pinned buffer, in the order of the IO block's own
 *  entries (the IO-memory map), and ends the pin. */
bool Restorer::placeRest(IoBufferPool::Buffer& buffer) noexcept {
  const std::vector<MapBlock>& rows = image_.map().blocks;
  const uint32_t ioBlock = buffer.ioBlock();
  bool ok = true;
  BlockRange run;
  forEachEntry(buffer.bytes(), [&](const IoBlockEntry& entry, uint32_t) {
    if (entry.block >= rows.size() || rows[entry.block].ioBlock != ioBlock) return;
    if (run.count > 0 && entry.block == run.end()) {
      ++run.count;
      return;
    }
    ok &= memory_.settleLoad(run);
    run = {entry.block, 1};
  });
  ok &= memory_.settleLoad(run);
  pool_.release(buffer, true);
  return ok;
}

bool Restorer::passSegments(SegmentKind kind) noexcept {
  const MemoryMap& map = image_.map();
  bool ok = true;
  for (uint32_t io = 0; io < map.ioBlocks.size() && !stop_; ++io) {
    // Faults come first: the rest of what they loaded is likely to be needed next (C4).
    while (IoBufferPool::Buffer* const buffer = pool_.acquireIdle()) ok &= placeRest(*buffer);
    if (map.segments[map.ioBlocks[io].segment].kind != kind || unplaced_[io] == 0) continue;
    bool mustLoad = false;
    IoBufferPool::Buffer& buffer = pool_.acquire(io, mustLoad);
    if (mustLoad) {
      // Any of its blocks names the place should the load fail.
      const auto row = std::find_if(map.blocks.begin(), map.blocks.end(),
                                    [&](const MapBlock& b) { return b.ioBlock == io; });
      BlockFault fault;
      const bool loaded = image_.loadIoBlock(io, static_cast<BlockId>(row - map.blocks.begin()),
                                             buffer.bytes(), fault);
      pool_.loaded(buffer, loaded);
      if (!loaded) {
        record(fault);
        ok = false;
        continue;
      }
    }
    ok &= placeRest(buffer);
  }
  return ok;
}

bool Restorer::passZeros() noexcept {
  const std::vector<MapBlock>& rows = image_.map().blocks;
  bool ok = true;
  for (BlockId block = 0; block < rows.size() && !stop_; ++block) {
    BlockRange run{block, 0};
    while (run.end() < rows.size() && run.count < kZeroRun && rows[run.end()].codec == Codec::zero)
      ++run.count;
    if (run.count == 0) continue;
    ok &= memory_.settleLoad(run);
    block = run.end() - 1;
  }
  return ok;
}

/** Loads all that is absent. False: something failed, or stop was asked for. */
bool Restorer::pass() noexcept {
  bool ok = passSegments(SegmentKind::hot);
  ok &= passZeros();
  ok &= passSegments(SegmentKind::cold);
  return ok && !stop_ && memory_.settleLoad({0, memory_.blockCount()});
}

void Restorer::complete() noexcept {
  memory_.endLoad();
  const std::lock_guard lock(stateLock_);
  fault_.reset();
  completeNs_ = uint64_t(std::chrono::steady_clock::now().time_since_epoch().count());
  state_ = State::done;
  stateChanged_.notify_all();
}

void Restorer::arm() {
  memory_.armAccess(this);
}

void Restorer::loadAll() {
  arm();
  if (!pass()) throw image_.describe(*fault_);
  complete();
}

void Restorer::start() {
  const std::lock_guard lock(stateLock_);
  if (state_ == State::done) return;
  state_ = State::working;
  thread_ = std::thread([this] { background(); });
}

void Restorer::background() {
  nameThread("ckptfs-restore");
  for (;;) {
    if (pass()) {
      complete();
      // A vCPU whose own attempt failed may wait for a block that has come since.
      memory_.retryFailed();
      return;
    }
    std::unique_lock lock(stateLock_);
    if (!again_) state_ = State::failed;
    stateChanged_.notify_all();
    stateChanged_.wait(lock, [this] { return again_ || stop_; });
    if (stop_) return;
    again_ = false;
    state_ = State::working;
  }
}

void Restorer::wait() {
  std::unique_lock lock(stateLock_);
  stateChanged_.wait(lock, [this] { return state_ == State::done || state_ == State::failed; });
  if (state_ == State::failed) throw image_.describe(*fault_);
}

void Restorer::retry() {
  image_.reopen();
  {
    const std::lock_guard lock(stateLock_);
    if (state_ == State::done) return;
    fault_.reset();
    again_ = true;
    if (state_ == State::failed) state_ = State::working;
    stateChanged_.notify_all();
  }
  memory_.retryFailed();
}

RestoreProgress Restorer::progress() const {
  RestoreProgress progress;
  progress.total = memory_.blockCount();
  progress.demand = demand_;
  progress.prefetched = prefetched_;
  progress.zero = zero_;
  const std::lock_guard lock(stateLock_);
  progress.done = state_ == State::done;
  progress.completeNs = completeNs_;
  if (fault_) progress.error = image_.describe(*fault_).what();
  return progress;
}

}  // namespace ckptfs
