// Chains of incremental checkpoints: each one reads as the full copy taken in its pause, and needs
// nothing but its own directory (requirement F4).
#include <doctest/doctest.h>

#include <cstring>
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
const Geometry kLargePages{.pageBytes = 32768, .pagesPerBlock = 4, .blocksPerIoBlock = 3};

struct Generation {
  std::string path;
  std::vector<std::byte> oracle;
};

bool equals(const Generation& generation) {
  const MemoryImage image(generation.path);
  std::vector<std::byte> bytes(image.bytes());
  image.read(0, bytes);
  return bytes == generation.oracle && verifyMemoryImage(generation.path).empty();
}

void linkSegments(const MemoryImage& base, const std::string& from, const std::string& to) {
  for (const format::MapSegment& segment : base.map().segments)
    fs::create_hard_link(from + "/" + segment.name, to + "/" + segment.name);
}

/** Removes what memory.map does not name, as the publisher of a checkpoint does. */
void removeUnnamed(const std::string& directory, const std::vector<std::string>& segments) {
  const std::set<std::string> named(segments.begin(), segments.end());
  for (const auto& entry : fs::directory_iterator(directory)) {
    const std::string name = entry.path().filename();
    if (name != MemoryMap::kFileName && named.count(name) == 0) fs::remove(entry.path());
  }
}

void chain(const std::string& engine, const Geometry& geometry, format::Codec codec,
           int generations) {
  CAPTURE(engine);
  const TempDirectory store;
  GuestMemory memory(kSanitized ? 6 << 20 : 24 << 20, geometry, engine);
  memory.track(true);
  fillMemory(memory, 21);
  // Writers keep to a part that moves with the generation, so that much stays unchanged.
  std::atomic<uint64_t> part{0};
  GuestThreads guest(2, [&](unsigned, std::mt19937_64& random) {
    const uint64_t length = memory.bytes() / 16;
    const uint64_t offset = (part * length + random() % length) % memory.bytes() / 8 * 8;
    guestStore(memory, offset, random() % 4 == 0 ? 0 : random());
    std::this_thread::yield();
  });
  std::vector<Generation> made;
  std::shared_ptr<const MemoryImage> base;
  for (int i = 0; i < generations; ++i) {
    CAPTURE(i);
    part = static_cast<uint64_t>(i) * 5;
    for (const uint64_t until = guest.steps() + 100; guest.steps() < until;)
      std::this_thread::yield();
    Generation next{store.make(std::to_string(i)), {}};
    if (base) linkSegments(*base, made.back().path, next.path);
    SaveOptions options{.directory = next.path, .codec = codec, .vcpus = 2};
    options.base = base;
    SaveResult result;
    const bool cancelled = i % 4 == 2;
    {
      Saver saver(memory, options);
      guest.pause();
      next.oracle = copyOf(memory);
      saver.arm();
      guest.resume();
      saver.start();
      if (cancelled) {
        saver.cancel();
        try {
          saver.wait();
        } catch (const Error& error) {
          CHECK(error.code() == Code::cancelled);
          fs::remove_all(next.path);
          continue;  // the next one's base is the one before
        }
      }
      result = saver.wait();
    }
    CHECK((result.parent > 0) == (base != nullptr));
    CHECK(result.parent + result.vcpu + result.background + result.zero + result.duplicate ==
          memory.blockCount());
    removeUnnamed(next.path, result.segments);
    made.push_back(std::move(next));
    REQUIRE(equals(made.back()));
    base = std::make_shared<MemoryImage>(made.back().path);
    CHECK(base->map().segments.size() == result.segments.size());
    // Any of them may go; the others are whole.
    if (made.size() > 3) {
      fs::remove_all(made[1].path);
      made.erase(made.begin() + 1);
    }
  }
  for (const Generation& generation : made) CHECK(equals(generation));
}

}  // namespace

TEST_CASE("incremental: chains equal full copies") {
  const int generations = kSanitized ? 4 : 12;
  for (const std::string& engine : usableEngines()) {
    chain(engine, kGeometry, format::Codec::lz4, generations);
    chain(engine, kLargePages, format::Codec::raw, generations);
  }
  chain("soft", kGeometry, format::Codec::zstd, generations);
}

TEST_CASE("incremental: nothing changed, and all of it changed") {
  const TempDirectory store;
  GuestMemory memory(4 << 20, kGeometry, "soft");
  memory.track(true);
  fillMemory(memory, 3);
  const auto save = [&](const char* name, std::shared_ptr<const MemoryImage> base) {
    const std::string path = store.make(name);
    SaveOptions options{.directory = path};
    options.base = base;
    Saver saver(memory, options);
    saver.arm();
    saver.start();
    return saver.wait();
  };
  save("a", nullptr);
  const auto base = std::make_shared<MemoryImage>(store.path() + "/a");
  fs::create_hard_link(store.path() + "/a/" + base->map().segments[0].name, store.path() + "/link");
  const SaveResult none = save("b", base);
  CHECK(none.parent == memory.blockCount());
  REQUIRE(none.segments.size() == 1);
  CHECK(std::distance(fs::directory_iterator(store.path() + "/b"), fs::directory_iterator()) == 1);
  fs::rename(store.path() + "/link", store.path() + "/b/" + none.segments[0]);
  CHECK(equals({store.path() + "/b", copyOf(memory)}));

  REQUIRE(memory.prepareWrite(0, memory.bytes()));
  const SaveResult all = save("c", std::make_shared<MemoryImage>(store.path() + "/b"));
  CHECK(all.parent == 0);
  CHECK(equals({store.path() + "/c", copyOf(memory)}));

  // Without a base everything is saved, clean or not.
  CHECK(save("d", nullptr).parent == 0);
  CHECK(equals({store.path() + "/d", copyOf(memory)}));
}

TEST_CASE("incremental: a base of another shape is refused") {
  const TempDirectory store;
  GuestMemory small(4 << 20, kGeometry, "soft");
  const std::string path = store.make("a");
  {
    Saver saver(small, {.directory = path});
    saver.arm();
    saver.start();
    saver.wait();
  }
  SaveOptions options{.directory = store.make("b")};
  options.base = std::make_shared<MemoryImage>(path);
  GuestMemory larger(8 << 20, kGeometry, "soft");
  CHECK_THROWS_AS(Saver(larger, options), Error);
  GuestMemory other(4 << 20, {.pageBytes = 4096, .pagesPerBlock = 4, .blocksPerIoBlock = 8},
                    "soft");
  CHECK_THROWS_AS(Saver(other, options), Error);
  CHECK(fs::is_empty(store.path() + "/b"));
}
