// A save that is armed while a restore is under way (requirement F2).
#include <doctest/doctest.h>

#include <algorithm>

#include "checkpoint/restore/restorer.h"
#include "saved_image.h"

using namespace ckptfs;
using format::Codec;

namespace {

/** Keeps a copy of each block that it is told to save. */
class CopyingSaver final : public TraceClient {
 public:
  explicit CopyingSaver(GuestMemory& memory)
      : memory_(memory), copy_(memory.bytes()), times_(memory.blockCount()) {}

  bool handle(BlockId block, Cause) noexcept override {
    const uint64_t offset = memory_.geometry().offsetOf(block);
    for (uint64_t at = 0; at < memory_.geometry().blockBytes(); at += 8)
      storeWord(copy_.data(), offset + at, loadWord(memory_.hostView(), offset + at));
    ++times_[block];
    return true;
  }
  const std::byte* at(BlockId block) const {
    return copy_.data() + memory_.geometry().offsetOf(block);
  }
  int times(BlockId block) const { return times_[block]; }

 private:
  GuestMemory& memory_;
  std::vector<std::byte> copy_;
  std::vector<std::atomic<int>> times_;  // how often each block was saved
};

/** The save is armed after `demands` blocks were placed because they were needed, or at the end;
 * some block was written to by then. */
void saveAfter(uint64_t demands, const char* engine, bool background) {
  CAPTURE(engine);
  CAPTURE(demands);
  const Saved saved(kDefaultGeometry, 8 << 20, Codec::lz4);
  const MemoryImage image(saved.directory.path());
  GuestMemory memory(image.bytes(), kDefaultGeometry, engine);
  memory.track(true);
  Restorer restorer(memory, image);
  CopyingSaver saver(memory);
  restorer.arm();
  if (background) restorer.start();

  std::vector<std::byte> expected = saved.contents;  // as the guest wrote it
  std::atomic<int> wrong{0};
  std::vector<std::byte> oracle;
  std::vector<uint8_t> traced(memory.blockCount());
  {
    GuestThreads guest(3, [&](unsigned thread, std::mt19937_64& random) {
      const uint64_t offset = random() % (memory.bytes() / 24) * 24 + thread * 8;
      wrong += guestLoad(memory, offset) != loadWord(expected.data(), offset);
      if (thread == 2) return;
      const uint64_t value = random();
      guestStore(memory, offset, value);
      storeWord(expected.data(), offset, value);
    });
    while (memory.dirtyBlocks() == 0 ||
           (restorer.progress().demand < demands && !restorer.progress().done))
      std::this_thread::yield();
    guest.pause();
    memory.armWrite(&saver, true, traced);
    oracle = expected;
    guest.resume();
    restorer.start();
    CHECK(memory.settleSave({0, memory.blockCount() / 2}));
    restorer.wait();
    CHECK(memory.settleSave({0, memory.blockCount()}));
    guest.pause();
    memory.endSave(true);
    guest.resume();
  }
  CHECK(wrong == 0);
  CHECK(equals(memory, expected));
  CHECK(std::find(traced.begin(), traced.end(), 1) != traced.end());
  for (BlockId block = 0; block < memory.blockCount(); ++block) {
    const uint64_t offset = kDefaultGeometry.offsetOf(block);
    REQUIRE(saver.times(block) == traced[block]);
    const std::byte* const kept = traced[block] ? saver.at(block) : saved.contents.data() + offset;
    REQUIRE(std::memcmp(kept, oracle.data() + offset, kDefaultGeometry.blockBytes()) == 0);
  }
}

}  // namespace

TEST_CASE("restore and save: a save armed during a restore gets the pause's contents") {
  for (const char* engine : {"soft", "mprotect"})
    for (const bool background : {false, true})
      for (const uint64_t demands : {1, 100}) saveAfter(demands, engine, background);
}
