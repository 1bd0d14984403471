#include "checkpoint/restore/restorer.h"

#include <doctest/doctest.h>

#include "saved_image.h"

using namespace ckptfs;
using format::Codec;

namespace {

constexpr const char* kEngines[] = {"soft", "mprotect"};

struct Lazily {
  Geometry geometry = kDefaultGeometry;
  Codec codec = Codec::lz4;
  bool aliases = false;
  const char* engine = "soft";
  uint64_t mappingLimit = 0;
  RestoreOptions options = {};
};

void lazily(const Lazily& with) {
  CAPTURE(static_cast<int>(with.codec));
  CAPTURE(with.aliases);
  CAPTURE(with.engine);
  CAPTURE(with.mappingLimit);
  const Saved saved(with.geometry, 12 << 20, with.codec, with.aliases);
  const MemoryImage image(saved.directory.path());
  for (int round = 0; round < (kSanitized ? 1 : 2); ++round) {
    GuestMemory memory(image.bytes(), with.geometry, with.engine, with.mappingLimit);
    Restorer restorer(memory, image, with.options);
    restorer.arm();
    // Word i belongs to thread i % 4: threads 0 and 1 write theirs, 2 reads through the guest view,
    // 3 reads through the host view as a device does.
    std::atomic<int> wrong{0};
    std::vector<std::byte> expected = saved.contents;
    {
      GuestThreads guest(4, [&](unsigned thread, std::mt19937_64& random) {
        const uint64_t offset = random() % (memory.bytes() / 32) * 32 + thread * 8;
        if (thread == 3) {
          wrong += !memory.prepareRead(offset, 8);
          wrong += loadWord(memory.hostView(), offset) != loadWord(expected.data(), offset);
          return;
        }
        wrong += guestLoad(memory, offset) != loadWord(expected.data(), offset);
        if (thread == 2) return;
        const uint64_t value = random();
        guestStore(memory, offset, value);
        storeWord(expected.data(), offset, value);
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
    CHECK(progress.demandStallNs > 0);
    CHECK(memory.counters().mappings == 1);
  }
}

}  // namespace

TEST_CASE("restorer: lazily, under readers and writers") {
  for (const char* engine : kEngines)
    for (const Geometry& geometry : {kDefaultGeometry, kLargePages})
      for (const Codec codec : {Codec::raw, Codec::lz4, Codec::zstd})
        lazily({.geometry = geometry, .codec = codec, .engine = engine});
}
TEST_CASE("restorer: lazily, with blocks that share a body") {
  for (const char* engine : kEngines)
    for (const Geometry& geometry : {kDefaultGeometry, kLargePages})
      for (const Codec codec : {Codec::raw, Codec::zstd})
        lazily({.geometry = geometry, .codec = codec, .aliases = true, .engine = engine});
}
TEST_CASE("restorer: lazily, with few mappings, few buffers, and one or more threads") {
  lazily({.engine = "mprotect", .mappingLimit = 10});
  lazily({.engine = "mprotect", .mappingLimit = 10, .options = {.threads = 4, .buffers = 1}});
  for (const Codec codec : {Codec::raw, Codec::lz4})
    for (const unsigned threads : {1, 4})
      lazily({.codec = codec, .options = {.threads = threads, .buffers = 1}});
}

TEST_CASE("restorer: eagerly") {
  for (const char* engine : kEngines) {
    const Saved saved(kDefaultGeometry, 16 << 20, Codec::lz4, true);
    const MemoryImage image(saved.directory.path());
    GuestMemory memory(image.bytes(), kDefaultGeometry, engine);
    Restorer restorer(memory, image);
    restorer.loadAll();
    CHECK(equals(memory, saved.contents));
    CHECK(restorer.progress().done);
    CHECK(restorer.progress().demand == 0);
    restorer.start();  // nothing left to do
    restorer.wait();
    for (BlockId block = 0; block < memory.blockCount(); ++block)
      REQUIRE(memory.state(block) == BlockState::open);
    CHECK(memory.counters().mappings == 1);
  }
}

TEST_CASE("restorer: memory of another shape is refused") {
  const Saved saved(kDefaultGeometry, 1 << 20, Codec::lz4);
  const MemoryImage image(saved.directory.path());
  GuestMemory other(2 << 20, kDefaultGeometry);
  CHECK_THROWS_AS(Restorer(other, image), Error);
  GuestMemory shape(1 << 20, {.pageBytes = 4096, .pagesPerBlock = 4, .blocksPerIoBlock = 8});
  CHECK_THROWS_AS(Restorer(shape, image), Error);
  GuestMemory right(1 << 20, kDefaultGeometry);
  CHECK_THROWS_AS(Restorer(right, image, {.threads = 0}), Error);
}

TEST_CASE("restorer: an eager restore of damaged data fails") {
  const Saved saved(kDefaultGeometry, 4 << 20, Codec::lz4);
  const MemoryImage image(saved.directory.path());
  const Damaged damage(saved.directory, image, blockIn(image, format::SegmentKind::cold));
  GuestMemory memory(image.bytes(), kDefaultGeometry);
  Restorer restorer(memory, image);
  CHECK_THROWS_AS(restorer.loadAll(), Error);
}

TEST_CASE("restorer: damaged blocks hold their readers, all else is loaded, a retry completes") {
  for (const auto& [kind, engine] : {std::pair(format::SegmentKind::hot, "soft"),
                                     std::pair(format::SegmentKind::cold, "mprotect")}) {
    const Saved saved(kDefaultGeometry, 4 << 20, Codec::lz4);
    const MemoryImage image(saved.directory.path());
    const BlockId bad = blockIn(image, kind);
    const uint64_t offset = kDefaultGeometry.offsetOf(bad);
    auto damage = std::make_unique<Damaged>(saved.directory, image, bad);
    GuestMemory memory(image.bytes(), kDefaultGeometry, engine);
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
        const uint64_t value = guestLoad(memory, offset);
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
      REQUIRE((memory.state(block) != BlockState::absent &&
               memory.state(block) != BlockState::loading) == (block != bad));
    damage.reset();
    restorer.retry();
    restorer.wait();
    vcpu.join();
    CHECK(right);
    CHECK(equals(memory, saved.contents));
  }
}

TEST_CASE("restorer: torn down in the middle, with a vCPU that waits for a damaged block") {
  const Saved saved(kDefaultGeometry, 4 << 20, Codec::lz4);
  const MemoryImage image(saved.directory.path());
  const BlockId bad = blockIn(image, format::SegmentKind::hot);
  const Damaged damage(saved.directory, image, bad);
  GuestMemory memory(image.bytes(), kDefaultGeometry);
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
    ended = GuestMemory::runGuarded([&] { guestLoad(memory, kDefaultGeometry.offsetOf(bad)); });
  });
  failures.wait(0);
  memory.abandon();
  vcpu.join();
  CHECK_FALSE(ended);
}
