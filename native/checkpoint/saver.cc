#include "checkpoint/saver.h"

#include <algorithm>

#include "base/thread_name.h"
#include "checkpoint/checkpoint_file.h"

namespace ckptfs {

using namespace format;

namespace {

// Beyond one buffer per slot: so many full ones may wait for the writer before a fault has to.
constexpr size_t kSpareBuffers = 4;
// The codec of a row that nobody filled in yet; never written to a file.
constexpr auto kUnsaved = static_cast<Codec>(0xff);

const Geometry& checked(const GuestMemory& memory) {
  checkCheckpointable(memory.geometry(), memory.bytes());
  return memory.geometry();
}

}  // namespace

Saver::Saver(GuestMemory& memory, const SaveOptions& options)
    : memory_(memory),
      options_(options),
      segments_{
          {options.directory, SegmentKind::hot, checked(memory), memory.bytes()},
          {options.directory, SegmentKind::cold, memory.geometry(), memory.bytes()}},
      packers_{{memory.geometry(), options.codec}, {memory.geometry(), options.codec}},
      pool_(memory.geometry(), options.vcpus + 1 + kSpareBuffers),
      slots_(options.vcpus + 1),  // the last one is shared by devices and other threads
      cold_(memory.geometry()) {
  map_.memoryBytes = memory.bytes();
  map_.geometry = memory.geometry();
  map_.blocks.assign(memory.blockCount(), {kNoIoBlock, 0, 0, kUnsaved, 0, {}, 0});
  for (Slot& slot : slots_) slot.buffer = pool_.take();
  writer_ = std::thread([this] { write(); });
  memory_.prepareArm();
}

Saver::~Saver() {
  cancel();
  if (backgroundThread_.joinable()) {
    backgroundThread_.join();
  } else {
    if (armed_) endTracing();
    pool_.close();
    writer_.join();
  }
}

void Saver::arm() {
  faultsBefore_ = memory_.counters().faults;
  memory_.armWrite(this);
  armed_ = true;
}

void Saver::start() {
  backgroundThread_ = std::thread([this] { background(); });
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
  const std::lock_guard lock(doneLock_);
  if (!error_ && !done_) error_ = error;
  stopped_.store(true, std::memory_order_release);
}

SaveProgress Saver::progress() const noexcept {
  return {memory_.blockCount(), vcpu_ + background_ + zero_, storedBytes_};
}

bool Saver::handle(BlockId block) noexcept {
  if (stopped()) return true;
  const std::byte* const contents = memory_.hostView() + memory_.geometry().offsetOf(block);
  // Asking first: reading a hole would allocate its pages.
  if (memory_.isHole(block) || isZero({contents, memory_.geometry().blockBytes()})) {
    map_.blocks[block].codec = Codec::zero;
    zero_.fetch_add(1, std::memory_order_relaxed);
    return true;
  }
  if (backgroundId_.load(std::memory_order_relaxed) == std::this_thread::get_id()) {
    // walk() leaves room for its run; only a widened lift brings more blocks than that.
    if (cold_.full()) {
      append(kCold, cold_);
      cold_.clear();
    }
    cold_.add(block, contents);
    background_.fetch_add(1, std::memory_order_relaxed);
    return true;
  }
  Slot& slot = slots_[std::min<size_t>(GuestMemory::threadIndex(), slots_.size() - 1)];
  const std::lock_guard lock(slot.lock);
  if (slot.buffer == nullptr) slot.buffer = pool_.take();
  slot.buffer->add(block, contents);
  vcpu_.fetch_add(1, std::memory_order_relaxed);
  if (slot.buffer->full()) {
    pool_.submit(slot.buffer);
    slot.buffer = pool_.tryTake();
  }
  return true;
}

/** Encodes and writes a buffer. Writer and background thread, each to its own segment. */
void Saver::append(Segment segment, const StagingBuffer& buffer) noexcept {
  if (stopped() || buffer.empty()) return;
  try {
    IoBlockPacker& io = packers_[segment];
    io.clear();
    for (size_t i = 0; i < buffer.ids().size(); ++i)
      io.add(buffer.ids()[i], buffer.raw() + i * memory_.geometry().blockBytes());
    const uint64_t offset = segments_[segment].append(io);
    storedBytes_.fetch_add(io.bytes(), std::memory_order_relaxed);
    const std::lock_guard lock(mapLock_);
    const auto index = static_cast<uint32_t>(map_.ioBlocks.size());
    map_.ioBlocks.push_back({segment, static_cast<uint32_t>(io.entries().size()), offset,
                             io.bytes(), 0, io.checksum()});
    uint64_t body = bodiesAt(io.entries().size());
    for (const IoBlockEntry& entry : io.entries()) {
      map_.blocks[entry.block] = {
          index, static_cast<uint32_t>(body), entry.stored, entry.codec, 0, {}, entry.checksum};
      body += entry.stored;
    }
  } catch (const Error& error) {
    fail(error);
  } catch (const std::bad_alloc&) {
    fail(Error(Code::io, "not enough host memory to save the checkpoint"));
  }
}

void Saver::write() {
  nameThread("ckptfs-hot");
  while (StagingBuffer* const buffer = pool_.nextFull()) {
    append(kHot, *buffer);
    pool_.release(buffer);
  }
}

/** Saves what no fault has saved yet, from the start of RAM to its end, an IO block at a time. */
void Saver::walk() {
  const auto waiting = [this](BlockId block) {
    return block < memory_.blockCount() && memory_.state(block) == BlockState::traced;
  };
  for (BlockId block = 0; block < memory_.blockCount() && !stopped(); ++block) {
    BlockRange run{block, 0};
    while (run.count < cold_.room() && waiting(run.end())) ++run.count;
    if (run.count == 0) continue;
    memory_.settle(run, true);
    if (cold_.full()) {
      append(kCold, cold_);  // outside handle(): no block is in `moving` meanwhile
      cold_.clear();
    }
    block = run.end() - 1;
  }
}

void Saver::endTracing() noexcept {
  if (stopped()) memory_.disarm();
  memory_.settle({0, memory_.blockCount()}, true);
  memory_.finish();
}

void Saver::publish() {
  for (SegmentWriter& segment : segments_) {
    if (stopped()) return;
    segment.seal();
    map_.segments.push_back(segment.description());
    result_.storedBytes += segment.bytes();
  }
  for (BlockId block = 0; block < map_.blocks.size(); ++block)
    if (map_.blocks[block].codec == kUnsaved)
      throw Error(Code::io, "memory block " + std::to_string(block) + " was not saved");
  map_.sortIoBlocks();
  const std::vector<std::byte> bytes = map_.encode();
  const CheckpointFile file =
      CheckpointFile::create(options_.directory + "/" + MemoryMap::kFileName);
  file.write(0, bytes);
  file.sync();
  result_.storedBytes += bytes.size();
}

void Saver::background() {
  nameThread("ckptfs-cold");
  backgroundId_.store(std::this_thread::get_id(), std::memory_order_relaxed);
  walk();
  endTracing();
  // No handle() runs any more: what is left in the buffers goes out.
  append(kCold, cold_);
  for (Slot& slot : slots_) {
    const std::lock_guard lock(slot.lock);
    if (slot.buffer != nullptr) pool_.submit(slot.buffer);
    slot.buffer = nullptr;
  }
  pool_.close();
  writer_.join();
  try {
    publish();
  } catch (const Error& error) {
    fail(error);
  } catch (const std::bad_alloc&) {
    fail(Error(Code::io, "not enough host memory to save the checkpoint"));
  }
  result_.vcpu = vcpu_;
  result_.background = background_;
  result_.zero = zero_;
  result_.faults = memory_.counters().faults - faultsBefore_;
  const std::lock_guard lock(doneLock_);
  done_ = true;
  doneChanged_.notify_all();
}

}  // namespace ckptfs
