// Threads against an oracle, over every trace engine and two geometries: whatever guests, devices,
// savers and loaders do at the same time, each checkpoint is memory as it was in its pause.
#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "guest_access.h"
#include "memory/guest_memory.h"
#include "test/checkpoint/guest_threads.h"

using namespace ckptfs;

namespace {

const Geometry kGeometries[] = {{},
                                {.pageBytes = 32768, .pagesPerBlock = 4, .blocksPerIoBlock = 8}};
constexpr uint64_t kBlocks = 301;
constexpr unsigned kVcpus = 2;
constexpr unsigned kThreads = kVcpus + 1;  // the last one is a device

using Image = std::vector<std::byte>;

/** Words that no guest ever writes: whoever reads one sees what the image had. */
bool isConstant(uint64_t offset) {
  return offset / 8 % 16 == 7;
}

Image randomImage(const Geometry& geometry, uint64_t seed) {
  Image image(kBlocks * geometry.blockBytes());
  std::mt19937_64 random(seed);
  for (BlockId block = 0; block < kBlocks; ++block) {
    if (random() % 4 == 0) continue;  // zeros
    for (uint64_t at = 0; at < geometry.blockBytes(); at += 8)
      storeTo(image.data(), geometry.offsetOf(block) + at, random());
  }
  return image;
}

/** Guest memory that two vCPUs and a device use at random, with translations that a vCPU keeps
 * until the next pause, as the soft engine allows. */
class Guest {
 public:
  Guest(const std::string& engine, const Geometry& geometry, Image contents, uint64_t mappingLimit)
      : memory(contents.size(), geometry, engine, mappingLimit),
        contents_(std::move(contents)),
        written_(kBlocks) {
    for (auto& one : translations_) one.resize(2 * kBlocks);
  }

  void run() {
    threads_ = std::make_unique<GuestThreads>(
        kThreads, [this](unsigned thread, std::mt19937_64& random) { step(thread, random); });
  }
  void stop() { threads_.reset(); }
  void pause() { threads_->pause(); }
  void resume() {
    for (auto& one : translations_) std::fill(one.begin(), one.end(), 0);
    threads_->resume();
  }
  void waitSteps(uint64_t count) const {
    for (const uint64_t target = threads_->steps() + count; threads_->steps() < target;)
      std::this_thread::yield();
  }

  /** Blocks that were written since the last call; in a pause. */
  std::vector<uint8_t> takeWritten() {
    std::vector<uint8_t> taken(kBlocks);
    for (BlockId block = 0; block < kBlocks; ++block) taken[block] = written_[block].exchange(0);
    return taken;
  }
  const Image& contents() const { return contents_; }

  GuestMemory memory;
  std::atomic<int> wrong{0};

 private:
  void step(unsigned thread, std::mt19937_64& random) {
    const uint64_t center = random() % (memory.bytes() / 8);
    for (int i = 0; i < 8; ++i) {
      const uint64_t offset = (center + random() % 8192) % (memory.bytes() / 8) * 8;
      const bool write = random() % 2 == 0 && !isConstant(offset);
      if (!touch(thread, offset, write)) continue;
      std::byte* const view = thread < kVcpus ? memory.guestView() : memory.hostView();
      if (write) {
        written_[memory.geometry().blockOf(offset)] = 1;
        storeTo(view, offset, random());
      } else {
        const uint64_t seen = loadFrom(view, offset);
        if (isConstant(offset) && seen != loadFrom(contents_.data(), offset)) ++wrong;
      }
    }
    std::this_thread::yield();
  }
  bool touch(unsigned thread, uint64_t offset, bool write) {
    if (thread == kVcpus)  // a failing client: the device tries another time
      return write ? memory.prepareWrite(offset, 8) : memory.prepareRead(offset, 8);
    if (!memory.softTraced()) return true;
    uint8_t& known = translations_[thread][2 * memory.geometry().blockOf(offset) + write];
    if (known == 0) memory.access(offset, write);
    known = 1;
    return true;
  }

  const Image contents_;
  std::vector<std::atomic<uint8_t>> written_;
  std::vector<uint8_t> translations_[kVcpus];  // per block: for reads, for writes
  std::unique_ptr<GuestThreads> threads_;
};

/** Fails now and then. */
class Flaky {
 public:
  explicit Flaky(bool flaky) : flaky_(flaky) {}
  bool fails() { return flaky_ && calls_.fetch_add(1) % 17 == 16; }

 private:
  const bool flaky_;
  std::atomic<unsigned> calls_{0};
};

class OracleSaver final : public TraceClient {
 public:
  OracleSaver(const GuestMemory& memory, Image base, bool flaky)
      : image(std::move(base)), calls(kBlocks), memory_(memory), flaky_(flaky) {}
  bool handle(BlockId block, Cause) noexcept override {
    if (flaky_.fails()) return false;
    const uint64_t at = memory_.geometry().offsetOf(block);
    std::memcpy(image.data() + at, memory_.hostView() + at, memory_.geometry().blockBytes());
    ++calls[block];
    return true;
  }
  Image image;  // the base, with what was saved put over it
  std::vector<std::atomic<int>> calls;

 private:
  const GuestMemory& memory_;
  Flaky flaky_;
};

class OracleLoader final : public TraceClient {
 public:
  OracleLoader(const GuestMemory& memory, const Image& image, bool flaky)
      : calls(kBlocks), memory_(memory), image_(image), flaky_(flaky) {}
  bool handle(BlockId block, Cause) noexcept override {
    if (flaky_.fails()) return false;
    const uint64_t at = memory_.geometry().offsetOf(block);
    const uint64_t bytes = memory_.geometry().blockBytes();
    const bool zero = std::all_of(&image_[at], &image_[at] + bytes,
                                  [](std::byte b) { return b == std::byte{0}; });
    if (!zero) std::memcpy(memory_.hostView() + at, image_.data() + at, bytes);
    ++calls[block];
    return true;
  }
  std::vector<std::atomic<int>> calls;

 private:
  const GuestMemory& memory_;
  const Image& image_;
  Flaky flaky_;
};

/** Settles runs in random order until all of memory is settled; retries what failed. */
template <class Settle>
void settleAll(GuestMemory& memory, uint64_t seed, Settle settle) {
  std::mt19937_64 random(seed);
  std::vector<BlockId> starts;
  for (BlockId block = 0; block < kBlocks; block += 8) starts.push_back(block);
  std::shuffle(starts.begin(), starts.end(), random);
  for (const BlockId start : starts)
    while (!settle({start, std::min<uint64_t>(8, kBlocks - start)})) memory.retryFailed();
  memory.retryFailed();
}

struct Plan {
  bool keepBase = true;
  bool flaky = false;
  bool good = true;      // else it is ended half way
  bool exact = true;     // nothing is dirty but what was written
  bool loading = false;  // a load is under way
};

/** A save by two background threads while the guest runs; compares it with memory in the pause. The
 *  base becomes the image if the save is a good one. */
void saveOnce(Guest& guest, Image& base, const Plan& plan, std::mt19937_64& random) {
  GuestMemory& memory = guest.memory;
  const auto [keepBase, flaky, good, exact, loading] = plan;
  OracleSaver saver(memory, base, flaky);
  std::vector<uint8_t> traced(kBlocks);
  memory.armAhead({random() % kBlocks / 2, kBlocks / 2});
  guest.waitSteps(5);
  guest.pause();
  const Image& before = base;
  const uint64_t dirty = memory.dirtyBlocks();
  memory.armWrite(&saver, keepBase, traced);
  const std::vector<uint8_t> written = guest.takeWritten();
  Image oracle = before;  // what is not loaded yet is as in the base
  for (BlockId block = 0; block < kBlocks; ++block) {
    const uint64_t at = memory.geometry().offsetOf(block);
    // The state first: ThreadSanitizer sees by it that what was loaded is there, and not by
    // `traced`.
    if (rightsIn(memory.state(block)) != Rights::none || traced[block] != 0)
      std::memcpy(&oracle[at], memory.hostView() + at, memory.geometry().blockBytes());
  }
  guest.resume();

  int odd = 0;
  for (BlockId block = 0; block < kBlocks; ++block) {
    const uint64_t at = memory.geometry().offsetOf(block);
    const bool changed = std::memcmp(&oracle[at], &before[at], memory.geometry().blockBytes()) != 0;
    odd += keepBase ? changed && traced[block] == 0 : traced[block] == 0;
    odd += keepBase && exact && traced[block] != 0 && written[block] == 0;
  }
  CHECK(odd == 0);
  const auto saves = uint64_t(std::count(traced.begin(), traced.end(), uint8_t{1}));
  if (!loading) CHECK(saves == (keepBase ? dirty : kBlocks));

  const auto settle = [&](BlockRange run) { return memory.settleSave(run); };
  if (good) {
    std::jthread other([&] { settleAll(memory, 1, settle); });
    settleAll(memory, 2, settle);
    other.join();
  } else {
    memory.settleSave({kBlocks / 3, kBlocks / 3});
  }
  memory.endSave(good);
  for (BlockId block = 0; block < kBlocks; ++block) {
    odd += saver.calls[block] > traced[block];
    if (good) odd += saver.calls[block] != traced[block];
  }
  CHECK(odd == 0);
  if (!good) return;
  CHECK(std::memcmp(saver.image.data(), oracle.data(), oracle.size()) == 0);
  base = std::move(saver.image);
}

/** Generations of checkpoints, full and incremental, good and failed, under a guest that writes. */
void generations(const std::string& engine, const Geometry& geometry, bool flaky,
                 uint64_t mappingLimit) {
  CAPTURE(engine);
  CAPTURE(flaky);
  CAPTURE(mappingLimit);
  Image base = randomImage(geometry, 5);
  Guest guest(engine, geometry, base, mappingLimit);
  std::memcpy(guest.memory.hostView(), base.data(), base.size());
  guest.memory.track(true);
  guest.run();
  std::mt19937_64 random(11);
  bool based = false;
  bool failed = false;
  for (int round = 0; round < std::max(4, 12 / kSlowdown); ++round) {
    CAPTURE(round);
    const bool keepBase = based && random() % 4 != 0;
    const bool good = random() % 4 != 0;
    saveOnce(
        guest, base,
        {.keepBase = keepBase, .flaky = flaky, .good = good, .exact = mappingLimit == 0 && !failed},
        random);
    based |= good;
    failed = !good;  // more is dirty then than was written
    if (mappingLimit != 0) CHECK(guest.memory.counters().mappings <= mappingLimit);
  }
  guest.stop();
  CHECK(guest.wrong == 0);
}

/** A lazy load under a guest, with a checkpoint in the middle of it and one after it. */
void loads(const std::string& engine, const Geometry& geometry, bool flaky, uint64_t mappingLimit) {
  CAPTURE(engine);
  CAPTURE(flaky);
  CAPTURE(mappingLimit);
  for (const bool tracked : {true, false}) {
    CAPTURE(tracked);
    const Image source = randomImage(geometry, 9);
    Guest guest(engine, geometry, source, mappingLimit);
    OracleLoader loader(guest.memory, source, flaky);
    guest.memory.track(tracked);
    guest.memory.armAccess(&loader);
    guest.run();
    std::mt19937_64 random(3);
    Image base = source;
    const auto settle = [&](BlockRange run) { return guest.memory.settleLoad(run); };
    std::jthread background([&] {
      guest.waitSteps(20);
      settleAll(guest.memory, 4, settle);
    });
    std::jthread retrier([&](const std::stop_token& stop) {  // frees vCPUs whose load has failed
      while (!stop.stop_requested()) {
        guest.memory.retryFailed();
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
    });
    // Untracked, blocks that were loaded count as written.
    const bool exact = tracked && mappingLimit == 0;
    saveOnce(guest, base, {.exact = exact, .loading = true}, random);
    background.join();
    guest.memory.endLoad();
    saveOnce(guest, base, {.keepBase = tracked, .exact = exact}, random);
    retrier.request_stop();
    retrier.join();
    guest.stop();
    CHECK(guest.wrong == 0);
    for (const auto& calls : loader.calls) REQUIRE(calls == 1);
  }
}

}  // namespace

TEST_CASE("conformance: generations of checkpoints equal the pauses, and cover every change") {
  for (const Geometry& geometry : kGeometries)
    for (const std::string& engine : usableEngines()) generations(engine, geometry, false, 0);
}

TEST_CASE("conformance: the same with clients that fail now and then") {
  for (const std::string& engine : usableEngines()) generations(engine, kGeometries[0], true, 0);
}

TEST_CASE("conformance: the same within a small mapping budget") {
  for (const uint64_t limit : {3, 40}) generations("mprotect", kGeometries[0], false, limit);
}

TEST_CASE("conformance: a lazy load, and a checkpoint in the middle of it") {
  for (const Geometry& geometry : kGeometries)
    for (const std::string& engine : usableEngines()) loads(engine, geometry, false, 0);
}

TEST_CASE("conformance: a lazy load with a source that fails now and then") {
  for (const std::string& engine : usableEngines()) loads(engine, kGeometries[0], true, 0);
}

TEST_CASE("conformance: a lazy load within a small mapping budget") {
  for (const uint64_t limit : {3, 40}) loads("mprotect", kGeometries[0], false, limit);
}

TEST_CASE("conformance: 64 GiB of sparse memory, written at random") {
  constexpr uint64_t kBytes = uint64_t{64} << 30;
  constexpr int kWrites = 12'000 / kSlowdown;
  for (const std::string& engine : usableEngines()) {
    CAPTURE(engine);
    GuestMemory memory(kBytes, kGeometries[0], engine);
    memory.track(true);
    class Counter final : public TraceClient {
     public:
      bool handle(BlockId, Cause) noexcept override { return ++calls > 0; }
      std::atomic<uint64_t> calls{0};
    } saver;
    std::vector<uint8_t> traced(memory.blockCount());
    const auto write = [&](uint64_t seed) {
      onThreads(3, [&](unsigned thread) {
        std::mt19937_64 random(seed + thread);
        for (int i = 0; i < kWrites; ++i) {
          const uint64_t offset = random() % (kBytes / 8) * 8;
          guestStore(memory, offset, offset + 1);
        }
      });
    };
    const auto missing = [&](uint64_t seed) {
      int count = 0;
      for (unsigned thread = 0; thread < 3; ++thread) {
        std::mt19937_64 random(seed + thread);
        for (int i = 0; i < kWrites; ++i) {
          const uint64_t offset = random() % (kBytes / 8) * 8;
          count += loadFrom(memory.hostView(), offset) != offset + 1 ||
                   memory.state(memory.geometry().blockOf(offset)) != BlockState::open;
        }
      }
      return count;
    };
    memory.armWrite(&saver, false, traced);
    write(1);
    CHECK(saver.calls >= memory.blockCount() - memory.dirtyBlocks());
    CHECK(missing(1) == 0);
    CHECK(memory.settleSave({0, memory.blockCount()}));
    CHECK(saver.calls == memory.blockCount());
    memory.endSave(true);
    const uint64_t dirty = memory.dirtyBlocks();
    CHECK(dirty >= kWrites);
    CHECK(dirty < memory.blockCount() / 2);
    memory.armWrite(&saver, true, traced);
    CHECK(saver.calls == memory.blockCount());
    write(100);
    CHECK(missing(100) == 0);
    memory.endSave(false);
    CHECK(memory.dirtyBlocks() >= dirty);
  }
}
