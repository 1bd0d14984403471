// In which order and how fast background threads load: learnt orders, limits, stopping.
#include <doctest/doctest.h>

#include <algorithm>

#include "checkpoint/restore/restorer.h"
#include "saved_image.h"

using namespace ckptfs;
using format::Codec;

namespace {

const std::string kId = "00112233445566778899aabbccddeeff";

/** A restore with one background thread that notes which IO blocks that thread loads. */
class Observed : public Restorer {
 public:
  Observed(GuestMemory& memory, const MemoryImage& image, RestoreOptions options)
      : Restorer(memory, image, std::move(options)), image_(image) {}
  ~Observed() override { stop(); }

  bool handle(BlockId block, Cause cause) noexcept override {
    const uint32_t ioBlock = image_.map().blocks[block].ioBlock;
    if (cause == Cause::background && ioBlock != format::kNoIoBlock &&
        (loaded.empty() || loaded.back() != ioBlock))
      loaded.push_back(ioBlock);
    return Restorer::handle(block, cause);
  }
  std::vector<uint32_t> loaded;  // valid once the restore is over

 private:
  const MemoryImage& image_;
};

/** A checkpoint and its order file. */
struct Learning {
  Saved saved{kDefaultGeometry, 16 << 20, Codec::lz4};
  const MemoryImage image{saved.directory.path()};
  const std::string file = saved.directory.path() + "/order";

  uint32_t ioBlockOf(BlockId block) const { return image.map().blocks[block].ioBlock; }
  NeedOrder order() const { return readOrderFile(file, kId, image.map().blocks.size()); }
  /** One block each of `count` IO blocks, in an order that no plan has. */
  NeedOrder someBlocks(size_t count, uint64_t seed) const {
    NeedOrder blocks(image.map().blocks.size());
    for (uint32_t i = 0; i < blocks.size(); ++i) blocks[i] = i;
    std::shuffle(blocks.begin(), blocks.end(), std::mt19937_64(seed));
    NeedOrder some;
    std::vector<bool> seen(image.map().ioBlocks.size());
    for (const uint32_t block : blocks) {
      if (some.size() == count) break;
      if (ioBlockOf(block) == format::kNoIoBlock || seen[ioBlockOf(block)]) continue;
      seen[ioBlockOf(block)] = true;
      some.push_back(block);
    }
    REQUIRE(some.size() == count);
    return some;
  }
  /** Restores; `needed` are waited for before background threads start, `used` later on. Returns
   *  the IO blocks that the background thread loaded, in order. */
  std::vector<uint32_t> restore(const NeedOrder& needed, const NeedOrder& used) const {
    GuestMemory memory(image.bytes(), kDefaultGeometry);
    Observed restorer(memory, image, {.threads = 1, .id = kId, .orderFile = file});
    restorer.arm();
    onVcpu([&] {
      for (const uint32_t block : needed) guestLoad(memory, kDefaultGeometry.offsetOf(block));
    });
    for (const uint32_t block : used) memory.noteAccess(kDefaultGeometry.offsetOf(block));
    restorer.start();
    restorer.wait();
    restorer.stop();
    CHECK(equals(memory, saved.contents));
    CHECK(restorer.progress().demand == needed.size());
    return restorer.loaded;
  }
};

}  // namespace

TEST_CASE("restore order: what guests needed is learnt, and loaded first the next time") {
  const Learning learning;
  const NeedOrder needed = learning.someBlocks(10, 1);
  learning.restore(needed, {});
  CHECK(learning.order() == needed);

  std::vector<uint32_t> loaded = learning.restore({}, {});
  REQUIRE(loaded.size() == learning.image.map().ioBlocks.size());
  for (size_t i = 0; i < needed.size(); ++i) CHECK(loaded[i] == learning.ioBlockOf(needed[i]));
  CHECK(learning.order() == needed);  // nothing new was learnt

  // Blocks 0 and 1 of the order are needed again and there in time, and so is another one; a
  // further one is not there in time.
  NeedOrder more = learning.someBlocks(14, 7);
  std::erase_if(more, [&](uint32_t block) {
    return std::any_of(needed.begin(), needed.end(), [&](uint32_t other) {
      return learning.ioBlockOf(block) == learning.ioBlockOf(other);
    });
  });
  REQUIRE(more.size() >= 2);
  learning.restore({more[0]}, {needed[1], more[1], needed[0]});
  NeedOrder expected = {more[0], needed[0], needed[1], more[1]};
  expected.insert(expected.end(), needed.begin() + 2, needed.end());
  CHECK(learning.order() == expected);

  loaded = learning.restore({}, {});
  for (size_t i = 0; i < expected.size(); ++i) CHECK(loaded[i] == learning.ioBlockOf(expected[i]));
}

TEST_CASE("restore order: without an order the hot segment comes first") {
  const Learning learning;
  const std::vector<uint32_t> loaded = learning.restore({}, {});
  CHECK(std::is_sorted(loaded.begin(), loaded.end()));  // the table has hot before cold
  CHECK(learning.order().empty());
  CHECK_FALSE(std::filesystem::exists(learning.file));
}

TEST_CASE("restore order: a damaged or foreign file is ignored, and replaced") {
  const Learning learning;
  const NeedOrder needed = learning.someBlocks(5, 3);
  writeOrderFile(learning.file, "of another one", learning.someBlocks(9, 4));
  CHECK(std::ranges::is_sorted(learning.restore({}, {})));
  std::ofstream(learning.file, std::ios::trunc) << "CKPTORD";
  CHECK(std::ranges::is_sorted(learning.restore({}, {})));
  learning.restore(needed, {});
  CHECK(learning.order() == needed);
}

TEST_CASE("restore order: one that cannot be written does not matter") {
  const Learning learning;
  std::filesystem::create_directory(learning.file);
  learning.restore(learning.someBlocks(5, 3), {});
}

TEST_CASE("restore order: a limit holds back reading, but not what is read already") {
  const Learning learning;
  for (const unsigned threads : {1, 2}) {
    GuestMemory memory(learning.image.bytes(), kDefaultGeometry);
    Restorer restorer(memory, learning.image, {.threads = threads, .limitBytesPerSecond = 1});
    restorer.arm();
    restorer.start();
    // The rest of what was needed is placed by background threads, and so all of it. Not faster
    // than that: a buffer that is needed for another IO block would have to be read again.
    const NeedOrder needed = learning.someBlocks(learning.image.map().ioBlocks.size(), 2);
    const IoBlockIndex index(learning.image.map());
    onVcpu([&] {
      for (const uint32_t block : needed) {
        guestLoad(memory, kDefaultGeometry.offsetOf(block));
        for (const uint32_t other : index.blocksOf(learning.ioBlockOf(block)))
          while (memory.state(other) != BlockState::open) std::this_thread::yield();
      }
    });
    restorer.wait();
    CHECK(equals(memory, learning.saved.contents));
    // Not one IO block a second was granted: at most the first.
    const RestoreProgress progress = restorer.progress();
    CHECK(progress.demand >= needed.size() - 1);
    CHECK(progress.prefetched > 0);
  }
}

TEST_CASE("restore order: stopped in the middle, blocks still come when they are needed") {
  const Learning learning;
  GuestMemory memory(learning.image.bytes(), kDefaultGeometry);
  Restorer restorer(memory, learning.image,
                    {.id = kId, .orderFile = learning.file, .limitBytesPerSecond = 1});
  restorer.arm();
  restorer.start();
  restorer.stop();
  CHECK_THROWS_AS(restorer.wait(), Error);
  CHECK_FALSE(restorer.progress().done);
  CHECK(restorer.progress().prefetched <= kDefaultGeometry.blocksPerIoBlock);
  for (BlockId block = 0; block < memory.blockCount(); ++block)
    CHECK(memory.prepareRead(kDefaultGeometry.offsetOf(block), 1));
  CHECK(equals(memory, learning.saved.contents));
  CHECK_FALSE(std::filesystem::exists(learning.file));
}
