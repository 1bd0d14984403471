#include "checkpoint/restorer.h"

#include <doctest/doctest.h>

#include <cstring>
#include <fstream>

#include "checkpoint/saver.h"
#include "guest_threads.h"
#include "temp_directory.h"

using namespace ckptfs;

namespace {

const Geometry kGeometry;
const Geometry kLargePages{.pageBytes = 32768, .pagesPerBlock = 4, .blocksPerIoBlock = 3};

/** A checkpoint of filled memory, some of it in the hot segment, and what it must read as. */
struct Saved {
  Saved(const Geometry& geometry, uint64_t bytes, bool compress) {
    GuestMemory memory(bytes, geometry);
    fillMemory(memory, 11);
    contents = copyOf(memory);
    Saver saver(memory, {directory.path(), compress ? format::Codec::lz4 : format::Codec::raw, 1});
    saver.arm();
    std::jthread([&] {
      GuestMemory::attachThread();
      std::mt19937_64 random(5);
      for (uint64_t i = 0; i < memory.blockCount() / 3; ++i)
        storeWord(memory.guestView(), random() % (bytes / 8) * 8, random());
    }).join();
    saver.start();
    saver.wait();
  }
  const TempDirectory directory;
  std::vector<std::byte> contents;
};

bool equals(const GuestMemory& memory, const std::vector<std::byte>& contents) {
  return std::memcmp(memory.hostView(), contents.data(), contents.size()) == 0;
}

/** The row of some block with a body in a segment of this kind. */
BlockId blockIn(const MemoryImage& image, format::SegmentKind kind) {
  const MemoryMap& map = image.map();
  for (BlockId block = 0; block < map.blocks.size(); ++block)
    if (map.blocks[block].codec != format::Codec::zero &&
        map.segments[map.ioBlocks[map.blocks[block].ioBlock].segment].kind == kind)
      return block;
  FAIL("no such block");
  return 0;
}

/** Inverts a byte of a block's body in its segment file, until destroyed. */
class Damaged {
 public:
  Damaged(const TempDirectory& directory, const MemoryImage& image, BlockId block) {
    const format::MapBlock& row = image.map().blocks[block];
    const format::MapIoBlock& io = image.map().ioBlocks[row.ioBlock];
    path_ = directory.path() + "/" + image.map().segmentName(io.segment);
    at_ = static_cast<std::streamoff>(io.offset + row.offset + row.stored / 2);
    flip();
  }
  ~Damaged() { flip(); }
  Damaged(const Damaged&) = delete;
  Damaged& operator=(const Damaged&) = delete;

 private:
  void flip() {
    std::fstream file(path_, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(at_);
    const auto byte = static_cast<char>(~file.get());
    file.seekp(at_);
    file.put(byte);
  }
  std::string path_;
  std::streamoff at_ = 0;
};

void lazily(const Geometry& geometry, bool compress, uint64_t mappingLimit, size_t buffers) {
  CAPTURE(compress);
  CAPTURE(mappingLimit);
  const Saved saved(geometry, 24 << 20, compress);
  const MemoryImage image(saved.directory.path());
  for (int round = 0; round < (kSanitized ? 1 : 4); ++round) {
    GuestMemory memory(image.bytes(), geometry, "mprotect", mappingLimit);
    Restorer restorer(memory, image, buffers);
    restorer.arm();
    // Word i belongs to thread i % 4: threads 0 and 1 write theirs, 2 reads through the guest view,
    // 3 reads through the host view as a device does.
    std::atomic<int> wrong{0};
    std::vector<std::byte> expected = saved.contents;
    {
      GuestThreads guest(4, [&](unsigned thread, std::mt19937_64& random) {
        const uint64_t offset = random() % (memory.bytes() / 32) * 32 + thread * 8;
        if (thread < 2) {
          const uint64_t value = random();
          wrong += loadWord(memory.guestView(), offset) != loadWord(expected.data(), offset);
          storeWord(memory.guestView(), offset, value);
          storeWord(expected.data(), offset, value);
        } else {
          if (thread == 3) wrong += !memory.prepareRead(offset, 8);
          wrong += loadWord(thread == 2 ? memory.guestView() : memory.hostView(), offset) !=
                   loadWord(saved.contents.data(), offset);
        }
      });
      while (guest.steps() < 200) std::this_thread::yield();
      restorer.start();
      restorer.wait();
    }
    CHECK(wrong == 0);
    REQUIRE(equals(memory, expected));
    const RestoreProgress progress = restorer.progress();
    CHECK(progress.done);
    CHECK(progress.error.empty());
    CHECK(progress.demand + progress.prefetched + progress.zero == progress.total);
    CHECK(progress.demand > 0);
    CHECK(memory.counters().mappings == 1);
  }
}

}  // namespace

TEST_CASE("restorer: lazily, under readers and writers") {
  for (const bool compress : {true, false}) {
    lazily(kGeometry, compress, 0, 16);
    lazily(kLargePages, compress, 0, 16);
    lazily(kGeometry, compress, 10, 16);
    lazily(kGeometry, compress, 0, 2);
  }
}

TEST_CASE("restorer: eagerly") {
  for (const bool compress : {true, false}) {
    const Saved saved(kGeometry, 16 << 20, compress);
    const MemoryImage image(saved.directory.path());
    GuestMemory memory(image.bytes(), kGeometry);
    Restorer restorer(memory, image);
    restorer.loadAll();
    CHECK(equals(memory, saved.contents));
    CHECK(restorer.progress().done);
    CHECK(restorer.progress().demand == 0);
    restorer.start();  // nothing left to do
    restorer.wait();
    // The memory is free for a save.
    const TempDirectory again;
    Saver saver(memory, {again.path(), compress ? format::Codec::lz4 : format::Codec::raw, 1});
    saver.arm();
    saver.start();
    saver.wait();
  }
}

TEST_CASE("restorer: memory of another shape is refused") {
  const Saved saved(kGeometry, 1 << 20, true);
  const MemoryImage image(saved.directory.path());
  GuestMemory other(2 << 20, kGeometry);
  CHECK_THROWS_AS(Restorer(other, image), Error);
  GuestMemory shape(1 << 20, {.pageBytes = 4096, .pagesPerBlock = 4, .blocksPerIoBlock = 8});
  CHECK_THROWS_AS(Restorer(shape, image), Error);
}

TEST_CASE("restorer: an eager restore of damaged data fails") {
  const Saved saved(kGeometry, 4 << 20, true);
  const MemoryImage image(saved.directory.path());
  const Damaged damage(saved.directory, image, blockIn(image, format::SegmentKind::cold));
  GuestMemory memory(image.bytes(), kGeometry);
  Restorer restorer(memory, image);
  CHECK_THROWS_AS(restorer.loadAll(), Error);
}

TEST_CASE("restorer: damaged blocks hold their readers, all else is loaded, a retry completes") {
  for (const auto kind : {format::SegmentKind::hot, format::SegmentKind::cold}) {
    const Saved saved(kGeometry, 4 << 20, true);
    const MemoryImage image(saved.directory.path());
    const BlockId bad = blockIn(image, kind);
    const uint64_t offset = kGeometry.offsetOf(bad);
    auto damage = std::make_unique<Damaged>(saved.directory, image, bad);
    GuestMemory memory(image.bytes(), kGeometry);
    std::atomic<int> failures{0};
    memory.onFailure([&] {
      ++failures;
      failures.notify_all();
    });
    Restorer restorer(memory, image);
    restorer.arm();
    std::atomic<bool> passed{false};
    std::atomic<bool> right{false};
    std::jthread vcpu([&] {
      GuestMemory::attachThread();
      GuestMemory::runGuarded([&] {
        const uint64_t value = loadWord(memory.guestView(), offset);
        right = value == loadWord(saved.contents.data(), offset);
        passed = true;
      });
    });
    struct Abandon {  // so that a failed check does not wait for the vCPU for ever
      GuestMemory& memory;
      ~Abandon() { memory.abandon(); }
    } const abandon{memory};
    failures.wait(0);
    CHECK_FALSE(memory.prepareRead(offset, 1));
    restorer.start();
    for (int i = 0; i < 2; ++i) {
      try {
        restorer.wait();
        FAIL("a damaged checkpoint was restored");
      } catch (const Error& error) {
        CHECK(error.code() == Code::damaged);
        CHECK(std::string(error.what()).find("block " + std::to_string(bad)) != std::string::npos);
        CHECK(std::string(error.what()).find(saved.directory.path()) != std::string::npos);
      }
      if (i == 0) restorer.retry();  // still damaged
    }
    CHECK_FALSE(passed);
    CHECK_FALSE(restorer.progress().done);
    CHECK_FALSE(restorer.progress().error.empty());
    for (BlockId block = 0; block < memory.blockCount(); ++block)  // bad: absent, or tried again
      REQUIRE((memory.state(block) == BlockState::open) == (block != bad));
    damage.reset();
    restorer.retry();
    restorer.wait();
    vcpu.join();
    CHECK(right);
    CHECK(equals(memory, saved.contents));
  }
}

TEST_CASE("restorer: torn down in the middle, with a vCPU that waits for a damaged block") {
  const Saved saved(kGeometry, 4 << 20, true);
  const MemoryImage image(saved.directory.path());
  const BlockId bad = blockIn(image, format::SegmentKind::hot);
  const Damaged damage(saved.directory, image, bad);
  GuestMemory memory(image.bytes(), kGeometry);
  std::atomic<int> failures{0};
  memory.onFailure([&] {
    ++failures;
    failures.notify_all();
  });
  Restorer restorer(memory, image);
  restorer.arm();
  restorer.start();
  bool ended = true;
  std::jthread vcpu([&] {
    GuestMemory::attachThread();
    ended = GuestMemory::runGuarded([&] { loadWord(memory.guestView(), kGeometry.offsetOf(bad)); });
  });
  failures.wait(0);
  memory.abandon();
  vcpu.join();
  CHECK_FALSE(ended);
}
