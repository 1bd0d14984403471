#include "checkpoint/save/saver.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <system_error>

#include "base/thread_name.h"

namespace ckptfs {

using namespace format;

namespace {

constexpr uint64_t kMiB = 1 << 20;
// Of a worker: the guest's vCPUs come first on a busy host. Who waits for a worker leaves it the
// CPU.
constexpr int kNice = 15;
// Staging memory, at first and at most. More of it makes a save slower: all of it is cleared by the
// kernel first, and on a virtual host allocated by the host too, which costs more than to write it.
constexpr uint64_t kFirstStaging = 32 * kMiB;
constexpr uint64_t kMostStaging = 128 * kMiB;
// Beyond one buffer per slot: so many full ones may wait for a worker before a fault has to.
constexpr size_t kSpareBuffers = 4;
// Arming ahead is done in slices, between which faults get on.
constexpr uint64_t kArmAheadBlocks = 4096;

uint64_t stagingBytes(const GuestMemory& memory, const SaveOptions& options) {
  const uint64_t toSave = options.base == nullptr
                              ? memory.bytes()
                              : memory.dirtyBlocks() * memory.geometry().blockBytes();
  const uint64_t bytes = options.stagingBytes != 0
                             ? options.stagingBytes
                             : std::clamp(toSave / 8, 8 * kMiB, kFirstStaging);
  return std::min(bytes, memory.bytes());
}

const MemoryMap* mapOf(const GuestMemory& memory, const SaveOptions& options) {
  if (options.base == nullptr) return nullptr;
  const MemoryMap& map = options.base->map();
  if (map.memoryBytes != memory.bytes() || map.geometry != memory.geometry())
    throw Error(Code::usage, "the base checkpoint is of another memory size or geometry");
  return &map;
}

const char* adviceFor(Code code) {
  switch (code) {
    case Code::noSpace:
      return "; the checkpoint was given up and the VM goes on: free some space and try again";
    case Code::io:
      return "; the checkpoint was given up and the VM goes on: see to the file's device and try "
             "again";
    default:
      return "";
  }
}

}  // namespace

/** What a worker thread has for itself. */
struct Saver::Worker {
  Worker(const Geometry& geometry, Codec codec, StagingBuffer& ownBuffer)
      : buffer(ownBuffer), packer(geometry, codec) {}
  StagingBuffer& buffer;
  IoBlockPacker packer;
  SegmentKind segment = SegmentKind::cold;  // where the buffer goes
  bool hole = false;                        // what the run being settled is
  uint64_t bytes = 0;                       // saved and not yet counted by the pace
  std::thread thread;
};

thread_local Saver::Worker* Saver::currentWorker = nullptr;

Saver::Saver(GuestMemory& memory, const SaveOptions& options)
    : memory_(memory),
      options_(options),
      base_(mapOf(memory, options)),
      output_(memory, options.directory),
      pool_(memory.geometry(), options.vcpus + 1 + options.workers + kSpareBuffers,
            stagingBytes(memory, options), std::min(memory.bytes() / 4, kMostStaging)),
      walk_(memory, output_.rows().traced(), options.accessed, options.suspend),
      pace_(options.limitBytesPerSecond, options.guestIoBusy),
      image_(memory, output_, options.base, options.late, [this] { flushAll(); }),
      slots_(options.vcpus + 1) {
  for (Slot& slot : slots_) slot.buffer = pool_.take();
  for (unsigned i = 0; i < options.workers; ++i)
    workers_.push_back(std::make_unique<Worker>(memory.geometry(), options.codec, *pool_.take()));
  startWorkers();
  for (BlockId block = 0; block < memory.blockCount(); block += kArmAheadBlocks)
    memory.armAhead({block, std::min(kArmAheadBlocks, memory.blockCount() - block)});
  forecast();
}

/** Notes what is traced: without a base, everything; else what differs from it so far, so that
 * arm() has little to change. */
void Saver::forecast() noexcept {
  const std::span<uint8_t> traced = output_.rows().traced();
  for (BlockId block = 0; block < traced.size(); ++block) {
    const BlockState state = memory_.state(block);
    const bool same = state == BlockState::clean || rightsIn(state) == Rights::none;
    traced[block] = base_ == nullptr || !same;
  }
}

void Saver::startWorkers() {
  walking_ = workers_.size();
  try {
    for (const auto& worker : workers_)
      worker->thread = std::thread([this, &own = *worker] { work(own); });
  } catch (const std::system_error& error) {
    cancel();
    endWorkers();
    throw Error(Code::io, std::string("cannot start the save's threads: ") + error.what());
  }
}

Saver::~Saver() {
  cancel();
  if (coordinator_.joinable()) {
    coordinator_.join();
  } else {
    if (armed_) endTracing(false);
    endWorkers();
  }
}

void Saver::arm() {
  faultsBefore_ = memory_.counters().faults;
  const bool keepBase = base_ != nullptr;
  memory_.armWrite(this, keepBase, keepBase ? output_.rows().traced() : std::span<uint8_t>{});
  armed_ = true;
}

void Saver::start() {
  const std::span<const uint8_t> traced = output_.rows().traced();
  total_ = static_cast<uint64_t>(std::count(traced.begin(), traced.end(), 1));
  walk_.start(options_.late);
  coordinator_ = std::thread([this] { coordinate(); });
  started_ = true;
  pool_.interrupt();
}

SaveResult Saver::wait() {
  std::unique_lock lock(doneLock_);
  doneChanged_.wait(lock, [this] { return done_; });
  if (error_) throw Error(*error_);
  return result_;
}

void Saver::cancel() noexcept {
  fail(Error(Code::cancelled, "the checkpoint was cancelled"));
}

void Saver::fail(const Error& error) noexcept {
  {
    const std::lock_guard lock(doneLock_);
    if (published_) return;
    if (!error_) error_.emplace(error.code(), error.what() + std::string(adviceFor(error.code())));
    image_.fail(*error_);
    stopped_.store(true, std::memory_order_release);
  }
  pool_.interrupt();
}

SaveProgress Saver::progress() const noexcept {
  return {total_, handled_, storedBytes_};
}

bool Saver::handle(BlockId block, Cause cause) noexcept {
  if (stopped()) return true;
  const std::byte* const contents = memory_.hostView() + memory_.geometry().offsetOf(block);
  if (cause == Cause::demand) pace_.demanded();
  if (options_.late != nullptr && options_.late->awaits(block)) {
    kept_.fetch_add(1);
    if (options_.late->keep(block, contents)) {
      handled_.fetch_add(1, std::memory_order_relaxed);
      return true;
    }
    kept_.fetch_sub(1);
    options_.late->wait(block);
  }
  Worker* const worker = cause == Cause::background ? currentWorker : nullptr;
  // Reading a hole would allocate its pages. Workers know what they are at.
  const bool hole = worker != nullptr ? worker->hole : memory_.isHole(block);
  handled_.fetch_add(1, std::memory_order_relaxed);
  if (hole || isZero({contents, memory_.geometry().blockBytes()})) {
    zero_.fetch_add(1, std::memory_order_relaxed);
    output_.rows().zero(block);
  } else if (worker != nullptr) {
    if (worker->buffer.full()) flush(*worker);  // only a widened permission brings that many
    worker->buffer.add(block, contents);
    worker->bytes += memory_.geometry().blockBytes();
  } else {
    stage(block, contents);
  }
  return true;
}

void Saver::stage(BlockId block, const std::byte* contents) noexcept {
  Slot& slot = slots_[std::min<size_t>(GuestMemory::threadIndex(), slots_.size() - 1)];
  const std::lock_guard lock(slot.lock);
  if (slot.buffer == nullptr) slot.buffer = pool_.take();
  slot.buffer->add(block, contents);
  if (slot.buffer->full()) {
    pool_.submit(slot.buffer);
    slot.buffer = pool_.tryTake();
  }
}

void Saver::late(BlockId block, const std::byte* raw) noexcept {
  if (!stopped()) {
    if (isZero({raw, memory_.geometry().blockBytes()})) {
      zero_.fetch_add(1, std::memory_order_relaxed);
      output_.rows().zero(block);
      output_.wake();
    } else {
      stage(block, raw);
    }
  }
  const std::lock_guard lock(doneLock_);
  kept_.fetch_sub(1);
  doneChanged_.notify_all();
}

void Saver::write(SegmentKind kind, const StagingBuffer& buffer, IoBlockPacker& packer,
                  bool background) noexcept {
  if (stopped() || buffer.empty()) return;
  try {
    const SaveOutput::Written written = output_.write(kind, buffer, packer, background);
    (background ? background_ : vcpu_).fetch_add(written.stored, std::memory_order_relaxed);
    duplicate_.fetch_add(written.duplicate, std::memory_order_relaxed);
    storedBytes_.fetch_add(written.bytes, std::memory_order_relaxed);
  } catch (const Error& error) {
    fail(error);
  } catch (const std::bad_alloc&) {
    fail(Error(Code::io, "not enough host memory to save the checkpoint"));
  }
}

void Saver::flush(Worker& worker) noexcept {
  write(worker.segment, worker.buffer, worker.packer, true);
  worker.buffer.clear();
}

/** Writes a buffer that came from the queue, if there is one. */
bool Saver::serve(Worker& worker, StagingBuffer* full) noexcept {
  if (full == nullptr) return false;
  write(SegmentKind::hot, *full, worker.packer, false);
  pool_.release(full);
  pool_.grow();
  return true;
}

/** Saves what nobody has saved yet; what vCPU threads have saved goes first. */
void Saver::walk(Worker& worker) noexcept {
  std::chrono::nanoseconds delay(0);
  uint64_t interrupts = pool_.interrupts();
  while (!stopped()) {
    if (serve(worker, pool_.nextFull(delay, interrupts))) continue;
    if (interrupts != pool_.interrupts()) {  // somebody waits for what is in our buffer
      interrupts = pool_.interrupts();
      flush(worker);
    }
    if (worker.buffer.empty()) {
      delay = std::chrono::nanoseconds(pace_.delayNs(worker.bytes));
      if (delay.count() != 0) continue;
      worker.bytes = 0;
    }
    const SaveWalk::Step step = walk_.next(worker.buffer.room());
    if (step.run.count == 0) return;
    if (step.segment != worker.segment) flush(worker);
    worker.segment = step.segment;
    worker.hole = step.hole;
    memory_.settleSave(step.run);
    if (worker.buffer.full()) flush(worker);  // outside handle(): no block is held meanwhile
  }
}

void Saver::work(Worker& worker) noexcept {
  nameThread("ckptfs-save");
  setpriority(PRIO_PROCESS, static_cast<id_t>(gettid()), kNice);
  currentWorker = &worker;
  for (uint64_t seen = pool_.interrupts(); !started_ && !stopped(); seen = pool_.interrupts())
    serve(worker, pool_.nextFull(std::chrono::hours(1), seen));
  walk(worker);
  flush(worker);
  {
    const std::lock_guard lock(doneLock_);
    --walking_;
    doneChanged_.notify_all();
  }
  while (serve(worker, pool_.lastFull())) {
  }
}

void Saver::submitSlots() noexcept {
  for (Slot& slot : slots_) {
    const std::lock_guard lock(slot.lock);
    if (slot.buffer == nullptr || slot.buffer->empty()) continue;
    pool_.submit(slot.buffer);
    slot.buffer = nullptr;
  }
}

/** Has everything written that was saved so far. */
void Saver::flushAll() noexcept {
  submitSlots();
  pool_.interrupt();
}

/** Saves the blocks that awaited disk reads, and gets back those that were kept for them. */
void Saver::settleLate() noexcept {
  for (const BlockId block : walk_.late()) {
    if (stopped()) break;
    options_.late->wait(block);
    memory_.settleSave({block, 1});
  }
}

/** From then on block states say nothing about this save. */
void Saver::endTracing(bool ok) noexcept {
  image_.endTracing();
  memory_.endSave(ok);
}

void Saver::endWorkers() noexcept {
  pool_.close();
  for (const auto& worker : workers_)
    if (worker->thread.joinable()) worker->thread.join();
}

void Saver::freeBuffers() noexcept {
  for (Slot& slot : slots_) {
    const std::lock_guard lock(slot.lock);
    slot.buffer = nullptr;
  }
  pool_.giveBack();
}

void Saver::coordinate() noexcept {
  nameThread("ckptfs-save");
  {
    std::unique_lock lock(doneLock_);
    doneChanged_.wait(lock, [this] { return walking_ == 0; });
  }
  settleLate();
  const bool tracing = !stopped();
  if (tracing)
    memory_.settleSave({0, memory_.blockCount()});  // what others are saving just now
  else
    endTracing(false);
  {
    std::unique_lock lock(doneLock_);
    doneChanged_.wait(lock, [this] { return kept_ == 0; });
  }
  submitSlots();
  endWorkers();
  const bool published = publish();
  if (tracing) endTracing(published);
  freeBuffers();
  const std::lock_guard lock(doneLock_);
  done_ = true;
  doneChanged_.notify_all();
}

/** Completes the checkpoint and the result. Once it has, nothing makes the save fail any more. */
bool Saver::publish() noexcept {
  SaveOutput::Published published;
  try {
    if (!stopped()) published = output_.publish(base_);
  } catch (const Error& error) {
    fail(error);
  } catch (const std::bad_alloc&) {
    fail(Error(Code::io, "not enough host memory to save the checkpoint"));
  }
  const std::lock_guard lock(doneLock_);
  if (error_) {
    output_.withdraw();
    return false;
  }
  result_ = {.vcpu = vcpu_,
             .background = background_,
             .zero = zero_,
             .duplicate = duplicate_,
             .parent = memory_.blockCount() - total_,
             .storedBytes = published.bytes,
             .faults = memory_.counters().faults - faultsBefore_,
             .segments = std::move(published.segments)};
  published_ = true;
  return true;
}

}  // namespace ckptfs
