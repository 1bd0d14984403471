// RAM is readable as of the pause while it is being saved (requirement F1), and disk reads that
// were in flight across the pause reach the checkpoint (A10, A11).
#include <doctest/doctest.h>

#include <condition_variable>
#include <cstring>
#include <map>
#include <set>

#include "checkpoint/image/memory_image.h"
#include "checkpoint/save/saver.h"
#include "checkpoint/upkeep/verify.h"
#include "guest_threads.h"
#include "temp_directory.h"

using namespace ckptfs;

namespace {

namespace fs = std::filesystem;

const Geometry kGeometry;

/** Reads at random; true if everything equals the oracle. */
bool readsEqual(const Saver& saver, const std::vector<std::byte>& oracle, uint64_t seed,
                int count) {
  std::mt19937_64 random(seed);
  for (int i = 0; i < count; ++i) {
    const uint64_t length = random() % 3 == 0 ? random() % 300'000 : random() % 5000;
    const uint64_t offset = random() % (oracle.size() - length);
    std::vector<std::byte> into(length);
    saver.read(offset, into);
    if (std::memcmp(into.data(), oracle.data() + offset, length) != 0) return false;
  }
  return true;
}

}  // namespace

TEST_CASE("save image: reads during the save equal the oracle") {
  for (const std::string& engine : usableEngines())
    for (const bool incremental : {false, true}) {
      CAPTURE(engine);
      CAPTURE(incremental);
      const TempDirectory store;
      GuestMemory memory(16 << 20, kGeometry, engine);
      memory.track(true);
      fillMemory(memory, 31);
      SaveOptions options{.directory = store.make("a"), .vcpus = 2};
      if (incremental) {
        {
          Saver saver(memory, options);
          saver.arm();
          saver.start();
          saver.wait();
        }
        options.base = std::make_shared<MemoryImage>(options.directory);
        options.directory = store.make("b");
        for (const format::MapSegment& segment : options.base->map().segments)
          fs::create_hard_link(store.path() + "/a/" + segment.name,
                               options.directory + "/" + segment.name);
        REQUIRE(memory.prepareWrite(3 << 20, 4 << 20));
      }
      GuestThreads guest = writersOf(memory);
      options.limitBytesPerSecond = 40 << 20;  // so that there is something to be read meanwhile
      Saver saver(memory, options);
      guest.pause();
      const std::vector<std::byte> oracle = copyOf(memory);
      saver.arm();
      CHECK(readsEqual(saver, oracle, 1, 5));  // in the pause already
      guest.resume();
      CHECK(readsEqual(saver, oracle, 2, 5));
      saver.start();
      std::atomic<int> wrong{0};
      {
        std::vector<std::jthread> readers;
        for (unsigned i = 0; i < 2; ++i)
          readers.emplace_back([&, i] { wrong += !readsEqual(saver, oracle, i, 60); });
      }
      CHECK(wrong == 0);
      saver.wait();
      CHECK(readsEqual(saver, oracle, 3, 60));
      const MemoryImage image(options.directory);
      std::vector<std::byte> bytes(image.bytes());
      image.read(0, bytes);
      CHECK(bytes == oracle);
    }
}

TEST_CASE("save image: reading holes allocates nothing") {
  const TempDirectory directory;
  GuestMemory memory(4 << 20, kGeometry, "soft");
  Saver saver(memory, {.directory = directory.path()});
  saver.arm();
  std::vector<std::byte> bytes(memory.bytes(), std::byte{1});
  saver.read(0, bytes);
  CHECK(bytes == std::vector<std::byte>(memory.bytes()));
  CHECK(memory.isHole(0));
}

TEST_CASE("save image: a failed save can be read no longer") {
  const TempDirectory directory;
  GuestMemory memory(4 << 20, kGeometry, "mprotect");
  fillMemory(memory, 5);
  Saver saver(memory, {.directory = directory.path()});
  saver.arm();
  const std::vector<std::byte> oracle = copyOf(memory);
  CHECK(readsEqual(saver, oracle, 1, 5));
  saver.cancel();
  std::vector<std::byte> into(100);
  CHECK_THROWS_AS(saver.read(0, into), Error);
  saver.start();
  CHECK_THROWS_AS(saver.wait(), Error);
  CHECK_THROWS_AS(saver.read(0, into), Error);
}

namespace {

/** Disk reads in flight at the pause, one for each of some blocks. */
class PendingReads final : public LateContents {
 public:
  PendingReads(GuestMemory& memory, const std::set<BlockId>& blocks, bool keeps)
      : memory_(memory), keeps_(keeps) {
    for (const BlockId block : blocks)
      reads_[block].copy.resize(kGeometry.blockBytes());  // keep() may not allocate
  }

  bool awaits(BlockId block) const noexcept override {
    const std::lock_guard lock(lock_);
    return isPending(block);
  }
  bool keep(BlockId block, const std::byte* raw) noexcept override {
    const std::lock_guard lock(lock_);
    if (!keeps_ || !isPending(block)) return false;
    Read& read = reads_.find(block)->second;
    std::memcpy(read.copy.data(), raw, read.copy.size());
    read.kept = true;
    ++kept_;
    return true;
  }
  void wait(BlockId block) noexcept override {
    std::unique_lock lock(lock_);
    ++waits_;
    done_.wait(lock, [&] { return !isPending(block); });
  }

  /** The disk has read: into memory, or into the copy if the guest went on with its own. */
  void complete(Saver& saver, BlockId block) {
    Read& read = reads_.find(block)->second;
    bool kept = false;
    {
      const std::lock_guard lock(lock_);
      kept = read.kept;
      std::byte* const into =
          kept ? read.copy.data() : memory_.hostView() + kGeometry.offsetOf(block);
      for (uint64_t at = 512; at < 1024; at += 8) storeWord(into, at, contentsOf(block));
      read.pending = false;
      done_.notify_all();
    }
    if (kept) saver.late(block, read.copy.data());
  }
  static uint64_t contentsOf(BlockId block) { return block * 1000 + 1; }
  /** Calls of wait() and keeps so far. */
  unsigned waits() const { return waits_; }
  unsigned kept() const { return kept_; }

 private:
  struct Read {
    std::vector<std::byte> copy;
    bool pending = true;
    bool kept = false;
  };
  bool isPending(BlockId block) const noexcept {
    const auto found = reads_.find(block);
    return found != reads_.end() && found->second.pending;
  }

  GuestMemory& memory_;
  const bool keeps_;
  mutable std::mutex lock_;  // guards the reads' flags and copies
  std::condition_variable done_;
  std::map<BlockId, Read> reads_;
  std::atomic<unsigned> kept_{0};
  std::atomic<unsigned> waits_{0};
};

}  // namespace

TEST_CASE("late contents: pending disk reads reach the checkpoint") {
  for (const std::string& engine : usableEngines())
    for (const bool keeps : {true, false}) {
      CAPTURE(engine);
      CAPTURE(keeps);
      const TempDirectory directory;
      GuestMemory memory(8 << 20, kGeometry, engine);
      fillMemory(memory, 6);
      const std::set<BlockId> blocks = {0, 7, 8, 100, memory.blockCount() - 1};
      PendingReads reads(memory, blocks, keeps);
      std::vector<std::byte> expected = copyOf(memory);
      for (const BlockId block : blocks)
        for (uint64_t at = 512; at < 1024; at += 8)
          storeWord(expected.data(), kGeometry.offsetOf(block) + at,
                    PendingReads::contentsOf(block));
      SaveOptions options{.directory = directory.path()};
      options.late = &reads;
      Saver saver(memory, options);
      saver.arm();
      // The guest writes to two of them, and to one that awaits nothing.
      std::jthread vcpu([&] {
        GuestMemory::attachThread();
        for (const BlockId block : {50, 7, 100}) guestStore(memory, kGeometry.offsetOf(block), 1);
      });
      saver.start();
      while (keeps ? reads.kept() < 2 : reads.waits() == 0) std::this_thread::yield();
      while (saver.progress().blocksSaved + 5 < memory.blockCount()) std::this_thread::yield();
      std::vector<std::byte> into(1024);
      std::jthread reader([&] { saver.read(kGeometry.offsetOf(100), into); });
      for (const BlockId block : blocks) reads.complete(saver, block);
      saver.wait();
      reader.join();
      CHECK(std::memcmp(into.data(), expected.data() + kGeometry.offsetOf(100), 1024) == 0);
      const MemoryImage image(directory.path());
      std::vector<std::byte> bytes(image.bytes());
      image.read(0, bytes);
      CHECK(bytes == expected);
      vcpu.join();
      CHECK(loadWord(memory.hostView(), kGeometry.offsetOf(7)) == 1);
    }
}

TEST_CASE("late contents: a cancelled save waits for what was kept") {
  const TempDirectory directory;
  GuestMemory memory(4 << 20, kGeometry, "soft");
  PendingReads reads(memory, {3}, true);
  SaveOptions options{.directory = directory.path()};
  options.late = &reads;
  Saver saver(memory, options);
  saver.arm();
  onVcpu([&] { guestStore(memory, kGeometry.offsetOf(3), 1); });
  saver.start();
  saver.cancel();
  reads.complete(saver, 3);
  CHECK_THROWS_AS(saver.wait(), Error);
}
