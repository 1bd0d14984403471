#include "checkpoint/restorer.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>

#include "base/thread_name.h"

namespace ckptfs {

using namespace format;

namespace {

// Threads that need compressed blocks at the same moment; a few more only wait for each other.
constexpr size_t kScratches = 4;

uint64_t nowNs() noexcept {
  return static_cast<uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
}

/** 0 or an errno. */
int writeAll(int fd, const std::byte* from, uint64_t bytes, uint64_t offset) noexcept {
  while (bytes > 0) {
    const ssize_t n = pwrite(fd, from, bytes, static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return n < 0 ? errno : EIO;
    from += n;
    offset += static_cast<uint64_t>(n);
    bytes -= static_cast<uint64_t>(n);
  }
  return 0;
}

}  // namespace

thread_local Restorer::Worker* Restorer::worker_ = nullptr;

Restorer::Restorer(GuestMemory& memory, const MemoryImage& image, RestoreOptions options)
    : memory_(memory),
      image_(image),
      options_(std::move(options)),
      pool_(std::max<size_t>(options_.buffers, options_.threads + 1),
            maxIoBlockBytes(image.map().geometry)),
      scratches_(kScratches),
      needs_(image.map()) {
  if (memory.bytes() != image.bytes() || memory.geometry() != image.map().geometry)
    throw Error(Code::usage, "guest memory is not of the checkpoint's size and geometry");
  if (options_.threads == 0) throw Error(Code::usage, "a restore needs a background thread");
  for (Scratch& scratch : scratches_)
    scratch.bytes = std::make_unique_for_overwrite<std::byte[]>(memory.geometry().blockBytes());
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
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

void Restorer::record(const BlockFault& fault) noexcept {
  const std::lock_guard lock(stateLock_);
  if (!fault_) fault_ = fault;
}

bool Restorer::handle(BlockId block) noexcept {
  const MapBlock& row = image_.map().blocks[block];
  if (row.codec == Codec::zero) {  // fresh memory is all zeros
    zero_.fetch_add(1, std::memory_order_relaxed);
    return true;
  }
  if (worker_ == nullptr) {
    const uint64_t begunNs = nowNs();
    needs_.note(block);
    const bool placed = placeDemanded(block);
    if (placed) demand_.fetch_add(1, std::memory_order_relaxed);
    demandStallNs_.fetch_add(nowNs() - begunNs, std::memory_order_relaxed);
    return placed;
  }
  Buffer* const held = worker_->buffer;
  const bool placed = held != nullptr && held->ioBlock() == row.ioBlock
                          ? place(block, *held, worker_->scratch.get())
                          : placeDemanded(block);
  if (placed) prefetched_.fetch_add(1, std::memory_order_relaxed);
  return placed;
}

bool Restorer::placeDemanded(BlockId block) noexcept {
  Buffer* const buffer = pinned(image_.map().blocks[block].ioBlock, block);
  if (buffer == nullptr) return false;
  bool placed = false;
  {
    Scratch& scratch = scratches_[GuestMemory::threadIndex() % kScratches];
    const std::lock_guard lock(scratch.lock);
    placed = place(block, *buffer, scratch.bytes.get());
  }
  pool_.release(*buffer, !placed);  // a damaged one is read again by a retry
  return placed;
}

/** Pins the buffer with an IO block, after loading it for the sake of `block` if need be. */
IoBufferPool::Buffer* Restorer::pinned(uint32_t ioBlock, BlockId block) noexcept {
  bool mustLoad = false;
  Buffer& buffer = pool_.acquire(ioBlock, mustLoad);
  if (!mustLoad) return &buffer;
  BlockFault fault;
  const bool loaded = image_.loadIoBlock(ioBlock, block, buffer.bytes(), fault);
  pool_.loaded(buffer, loaded);
  if (loaded) return &buffer;
  record(fault);
  return nullptr;
}

bool Restorer::place(BlockId block, const Buffer& buffer, std::byte* scratch) noexcept {
  const Geometry& geometry = memory_.geometry();
  BlockFault fault;
  const std::byte* const raw =
      image_.contents(block, buffer.bytes(), {scratch, geometry.blockBytes()}, fault);
  if (raw != nullptr) {
    fault.err = writeAll(memory_.fd(), raw, geometry.blockBytes(), geometry.offsetOf(block));
    if (fault.err == 0) return true;
  }
  record(fault);
  return false;
}

/** Places what is absent of the IO block in a pinned buffer, and ends the pin. */
void Restorer::placeRest(Worker& worker, Buffer& buffer) noexcept {
  worker.buffer = &buffer;
  BlockRange run;
  for (const uint32_t block : plan_->blocksOf(buffer.ioBlock())) {
    if (block != run.end()) {
      memory_.settle(run, true);
      if (stop_) break;
      run = {block, 0};
    }
    ++run.count;
  }
  if (!stop_) memory_.settle(run, true);
  worker.buffer = nullptr;
  pool_.release(buffer, true);
}

void Restorer::loadIoBlock(Worker& worker, uint32_t ioBlock) noexcept {
  const auto blocks = plan_->blocksOf(ioBlock);
  const auto absent = std::find_if(blocks.begin(), blocks.end(), [this](uint32_t block) {
    return memory_.state(block) == BlockState::absent;
  });
  if (absent == blocks.end()) return;
  Buffer* const buffer = pinned(ioBlock, *absent);
  if (buffer != nullptr) placeRest(worker, *buffer);
}

/** One thread's share of loading all that is absent. */
void Restorer::pass(Worker& worker) noexcept {
  while (!stop_) {
    // Faults come first: the rest of what they loaded is likely to be needed next (C4).
    if (Buffer* const buffer = pool_.acquireIdle()) {
      placeRest(worker, *buffer);
      continue;
    }
    RestorePlan::Step step;
    if (!plan_->next(step)) return;
    if (!step.isZeros) {
      loadIoBlock(worker, step.ioBlock);
      continue;
    }
    const auto& rows = image_.map().blocks;
    BlockRange run{step.range.first, 0};
    for (BlockId block = step.range.first; block < step.range.end(); ++block) {
      if (rows[block].codec == Codec::zero) {
        ++run.count;
      } else {
        memory_.settle(run, true);
        run = {block + 1, 0};
      }
    }
    memory_.settle(run, true);
  }
}

void Restorer::makePlan() {
  if (!options_.orderFile.empty())
    learnt_ = readOrderFile(options_.orderFile, options_.id, memory_.blockCount());
  plan_ = std::make_unique<RestorePlan>(image_.map(), learnt_);
}

void Restorer::work() {
  nameThread("ckptfs-restore");
  Worker worker{nullptr, std::make_unique_for_overwrite<std::byte[]>(memory_.geometry().blockBytes())};
  worker_ = &worker;
  std::call_once(planned_, [this] { makePlan(); });
  std::unique_lock lock(stateLock_);
  for (uint64_t last = 0;;) {
    stateChanged_.wait(lock, [&] { return stop_ || state_ == State::done || pass_ != last; });
    if (stop_ || state_ == State::done) return;
    last = pass_;
    lock.unlock();
    pass(worker);
    lock.lock();
    if (--working_ == 0) endPass(lock);
  }
}

void Restorer::beginPass() noexcept {
  if (plan_ != nullptr) plan_->rewind();
  working_ = options_.threads;
  ++pass_;
  state_ = State::working;
  stateChanged_.notify_all();
}

/** By the last thread of a pass. */
void Restorer::endPass(std::unique_lock<std::mutex>& lock) {
  lock.unlock();
  const bool loaded = !stop_ && memory_.settle({0, memory_.blockCount()}, true);
  lock.lock();
  if (stop_) return;
  if (loaded) {
    complete(lock);
  } else if (again_) {
    again_ = false;
    beginPass();
  } else {
    state_ = State::failed;
    stateChanged_.notify_all();
  }
}

void Restorer::complete(std::unique_lock<std::mutex>& lock) {
  memory_.finish();
  fault_.reset();
  completeNs_ = nowNs();
  state_ = State::done;
  stateChanged_.notify_all();
  lock.unlock();
  memory_.retryFailed();  // a vCPU whose own attempt failed may wait for a block that has come since
  learn();
  lock.lock();
}

/** Writes the order file; the restore is complete without it, too. */
void Restorer::learn() noexcept try {
  if (options_.orderFile.empty()) return;
  std::vector<uint8_t> accessed(memory_.blockCount());
  const NeedOrder order = needs_.order(accessed, *plan_, learnt_);
  if (!order.empty()) writeOrderFile(options_.orderFile, options_.id, order);
} catch (const std::exception&) {
}

void Restorer::arm() {
  memory_.armAccess(this);
}

void Restorer::loadAll() {
  arm();
  start();
  wait();
}

void Restorer::start() {
  const std::lock_guard lock(stateLock_);
  if (state_ != State::idle) return;
  beginPass();
  for (unsigned i = 0; i < options_.threads; ++i) threads_.emplace_back([this] { work(); });
}

void Restorer::wait() {
  std::unique_lock lock(stateLock_);
  stateChanged_.wait(
      lock, [this] { return stop_ || state_ == State::done || state_ == State::failed; });
  if (state_ == State::failed) throw image_.describe(*fault_);
  if (state_ != State::done) throw Error(Code::cancelled, "the restore was stopped");
}

void Restorer::retry() {
  image_.reopen();
  {
    const std::lock_guard lock(stateLock_);
    if (state_ == State::done) return;
    fault_.reset();
    if (state_ == State::failed)
      beginPass();
    else
      again_ = state_ == State::working;
  }
  memory_.retryFailed();
}

RestoreProgress Restorer::progress() const {
  RestoreProgress progress;
  progress.total = memory_.blockCount();
  progress.demand = demand_;
  progress.prefetched = prefetched_;
  progress.zero = zero_;
  progress.demandStallNs = demandStallNs_;
  const std::lock_guard lock(stateLock_);
  progress.done = state_ == State::done;
  progress.completeNs = completeNs_;
  if (fault_) progress.error = image_.describe(*fault_).what();
  return progress;
}

}  // namespace ckptfs
