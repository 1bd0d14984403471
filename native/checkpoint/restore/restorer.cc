#include "checkpoint/restore/restorer.h"

#include <algorithm>
#include <chrono>

#include "base/thread_name.h"

namespace ckptfs {

using namespace format;

namespace {

// A thread that is held back looks so often whether it is to stop.
constexpr std::chrono::nanoseconds kLongestSleep = std::chrono::milliseconds(10);

}  // namespace

thread_local Restorer::Worker Restorer::worker_;

Restorer::Restorer(GuestMemory& memory, const MemoryImage& image, RestoreOptions options)
    : memory_(memory),
      image_(image),
      options_(std::move(options)),
      loader_(memory, image, std::max<size_t>(options_.buffers, options_.threads + 1)),
      needs_(image.map()),
      pace_(options_.limitBytesPerSecond, options_.guestIoBusy) {
  if (memory.bytes() != image.bytes() || memory.geometry() != image.map().geometry)
    throw Error(Code::usage, "guest memory is not of the checkpoint's size and geometry");
  if (options_.threads == 0) throw Error(Code::usage, "a restore needs a background thread");
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

bool Restorer::handle(BlockId block, Cause cause) noexcept {
  const MapBlock& row = image_.map().blocks[block];
  if (row.codec == Codec::zero) {  // fresh memory is all zeros
    zero_.fetch_add(1, std::memory_order_relaxed);
    return true;
  }
  if (cause == Cause::demand) {
    const uint64_t begunNs = Pace::steadyNs();
    needs_.note(block);
    const bool placed = loader_.place(block);
    if (placed) demand_.fetch_add(1, std::memory_order_relaxed);
    demandStallNs_.fetch_add(Pace::steadyNs() - begunNs, std::memory_order_relaxed);
    return placed;
  }
  Buffer* const held = worker_.buffer;
  const bool placed = held != nullptr && held->ioBlock() == row.ioBlock
                          ? loader_.place(block, *held, worker_.scratch.get())
                          : loader_.place(block);
  if (placed) prefetched_.fetch_add(1, std::memory_order_relaxed);
  return placed;
}

/** Places what is absent of the IO block in a pinned buffer, and ends the pin. */
void Restorer::placeRest(Buffer& buffer) noexcept {
  worker_.buffer = &buffer;
  BlockRange run;
  for (const uint32_t block : plan_->blocksOf(buffer.ioBlock())) {
    if (block != run.end()) {
      memory_.settleLoad(run);
      if (stop_) break;
      run = {block, 0};
    }
    ++run.count;
  }
  if (!stop_) memory_.settleLoad(run);
  worker_.buffer = nullptr;
  loader_.finish(buffer);
}

void Restorer::settleZeros(BlockRange range) noexcept {
  const auto& rows = image_.map().blocks;
  BlockRange run{range.first, 0};
  for (BlockId block = range.first; block < range.end(); ++block) {
    if (rows[block].codec == Codec::zero) {
      ++run.count;
    } else {
      memory_.settleLoad(run);
      run = {block + 1, 0};
    }
  }
  memory_.settleLoad(run);
}

/** Does a step of the plan. False: this is not the time for it. */
bool Restorer::take(const RestorePlan::Step& step) noexcept {
  if (step.isZeros) {
    settleZeros(step.range);
    return true;
  }
  const auto blocks = plan_->blocksOf(step.ioBlock);
  const auto absent = std::find_if(blocks.begin(), blocks.end(), [this](uint32_t block) {
    return memory_.state(block) == BlockState::absent;
  });
  if (absent == blocks.end()) return true;
  if (const uint64_t ns = pace_.delayNs(image_.map().ioBlocks[step.ioBlock].bytes)) {
    loader_.waitIdle(std::min(std::chrono::nanoseconds(ns), kLongestSleep));
    return false;
  }
  Buffer* const buffer = loader_.pin(step.ioBlock, *absent);
  if (buffer != nullptr) placeRest(*buffer);
  return true;
}

/** One thread's share of loading all that is absent. */
void Restorer::pass() noexcept {
  RestorePlan::Step step;
  for (bool taken = true; !stop_;) {
    // Faults come first: the rest of what they loaded is likely to be needed next (C4).
    if (Buffer* const buffer = loader_.pinIdle()) {
      placeRest(*buffer);
      continue;
    }
    if (taken && !plan_->next(step)) return;
    taken = take(step);
  }
}

void Restorer::makePlan() {
  if (!options_.orderFile.empty())
    learnt_ = readOrderFile(options_.orderFile, options_.id, memory_.blockCount());
  plan_ = std::make_unique<RestorePlan>(image_.map(), learnt_);
}

void Restorer::work() {
  nameThread("ckptfs-restore");
  const Arrival::Patience patience;
  worker_.scratch = std::make_unique_for_overwrite<std::byte[]>(memory_.geometry().blockBytes());
  std::call_once(planned_, [this] { makePlan(); });
  std::unique_lock lock(stateLock_);
  for (uint64_t last = 0;;) {
    stateChanged_.wait(lock, [&] { return stop_ || state_ == State::done || pass_ != last; });
    if (stop_ || state_ == State::done) return;
    last = pass_;
    lock.unlock();
    pass();
    lock.lock();
    if (--working_ == 0) endPass(lock);
  }
}

void Restorer::beginPass() noexcept {
  working_ = options_.threads;
  ++pass_;
  state_ = State::working;
  stateChanged_.notify_all();
}

/** By the last thread of a pass. */
void Restorer::endPass(std::unique_lock<std::mutex>& lock) {
  lock.unlock();
  const bool loaded = !stop_ && memory_.settleLoad({0, memory_.blockCount()});
  lock.lock();
  plan_->rewind();
  if (loaded) {
    complete(lock);
  } else if (stop_) {
    return;
  } else if (again_) {
    again_ = false;
    beginPass();
  } else {
    state_ = State::failed;
    stateChanged_.notify_all();
  }
}

void Restorer::complete(std::unique_lock<std::mutex>& lock) {
  memory_.endLoad();
  // Now, and not when there is time: what is used later says nothing about a start.
  std::vector<uint8_t> accessed(memory_.blockCount());
  memory_.harvestAccessed(accessed);
  loader_.forget();
  completeNs_ = Pace::steadyNs();
  state_ = State::done;
  stateChanged_.notify_all();
  lock.unlock();
  // A vCPU whose own attempt failed may wait for a block that has come since.
  memory_.retryFailed();
  learn(accessed);
  lock.lock();
}

/** Writes the order file; the restore is complete without it, too. */
void Restorer::learn(std::span<const uint8_t> accessed) noexcept try {
  if (options_.orderFile.empty()) return;
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
  for (unsigned i = 0; i < options_.threads; ++i) threads_.emplace_back([this] { work(); });
  beginPass();
}

void Restorer::wait() {
  std::unique_lock lock(stateLock_);
  stateChanged_.wait(lock,
                     [this] { return stop_ || state_ == State::done || state_ == State::failed; });
  if (state_ == State::failed) throw image_.describe(*loader_.fault());
  if (state_ != State::done) throw Error(Code::cancelled, "the restore was stopped");
}

void Restorer::retry() {
  image_.reopen();
  {
    const std::lock_guard lock(stateLock_);
    if (state_ == State::done) return;
    loader_.forget();
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
  progress.failed = state_ == State::failed;
  progress.completeNs = completeNs_;
  if (const auto fault = loader_.fault()) progress.error = image_.describe(*fault).what();
  return progress;
}

}  // namespace ckptfs
